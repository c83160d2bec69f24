"""All benchmarks, one after the other: `make bench`.

    python scripts/bench [--quick] [--json docs/results] [--device cuda]

--json is a folder here. Some twenty minutes on two cores, which should have nothing else to do. sweep.py is not
among them: it takes ten minutes of its own and measures the launcher. Nor are preparation.py, augmentation.py and
cached.py, which measure what a run does beside its steps, read_ahead.py and resnet12.py.
"""

import importlib

from measuring import arguments

NAMES = ("maml", "protonet", "sampling", "episodes", "growth", "floor", "start")


def main() -> None:
    args = arguments(__doc__)
    for name in NAMES:
        words = ["--quick"] if args.quick else []
        words += [f"--json={args.json / f'bench_{name}.json'}"] if args.json else []
        importlib.import_module(name).main([*words, f"--device={args.device}"])


if __name__ == "__main__":
    main()
