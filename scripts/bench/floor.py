"""The floor of a step: its operations and bytes over what the machine can do of them.

    python scripts/bench/floor.py [--quick] [--json docs/results/bench_floor.json] [--device cuda]

work.py says what is counted and how the machine's speed is measured. maml.py and protonet.py print how many times the
floor each of their rows takes; the table here shows what the floors are made of.
"""

from collections.abc import Sequence

import maml
import protonet
from measuring import Row, alone, arguments, report
from work import Work, floor_seconds, machine_speed


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    machine = alone(args.quick, machine_speed, args.device, args.quick)
    steps: list[tuple[Row, Work]] = [
        ({"step": "MAML", "image": case.shape.image, "network": case.shape.downsampling, "queries": case.shape.queries,
          "inner steps": case.inner_steps, "order": 1 if case.first_order else 2}, maml.count(case))
        for case in maml.cases(args)
    ] + [
        ({"step": "ProtoNet", "image": shape.image, "network": "pool", "queries": shape.queries, "shots": shape.shots},
         protonet.count(shape))
        for shape in protonet.shapes(args)
    ]  # fmt: skip
    rows: list[Row] = [
        step | {"floor ms": 1e3 * floor_seconds(work, machine), "GFLOP": work.operations / 1e9, "MB": work.bytes / 1e6,
                "operations ms": 1e3 * work.operations / machine.matrix, "bytes ms": 1e3 * work.bytes / machine.copy}
        for step, work in steps
    ]  # fmt: skip
    report("floor", args, rows, speed=machine._asdict())


if __name__ == "__main__":
    main()
