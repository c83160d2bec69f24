"""Preparing a data set: peak memory, and pictures per second.

    python scripts/bench/preparation.py [--quick] [--json FILE] [--folder DIR] [--dataset NAME]

memory: 100 000 synthetic images of 3x84x84 (2.1 GB), written class by class (600 images) into a new prepared array.
files: JPEG files in class folders, decoded, resized to 84x84 and written as a data set does it: 4 000 files of 84x84,
1 000 of 500x375 (ImageNet's usual size) and 100 of 4000x3000, which are made, and those of DIR, which has class folders
at any depth. NAME, such as cifar_fs, is read from $FEWSHOT_DATA and prepared as `fewshot data prepare` does it.

Columns: loop / ours is the time of a plain loop in one thread (Pillow: open, convert, fit; one array of all images at
the end) over ours, both from files that the kernel has read before; MB is peak memory above idle, of the whole set in
an array for the loop.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from measuring import Load, PeakMemory, Row, alone, parser, report

from fewshot.datasets.cache import Classes, Write, prepared
from fewshot.datasets.picture_files import write_pictures
from fewshot.pictures import Pictures

SIDE = 84
MADE = (("84x84", 84, 84, 4000), ("500x375", 500, 375, 1000), ("4000x3000", 4000, 3000, 100))  # ..., files
DISTINCT = 20  # of pictures above a million pixels; the other files have the same content


def synthetic(images: int) -> Row:
    """Memory of a preparation whose images come from nowhere."""
    per_class = min(600, images)

    def build(write: Write) -> Classes:
        counts = [len(range(start, min(start + per_class, images))) for start in range(0, images, per_class)]
        for count in counts:
            write(torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8))
        offsets = torch.tensor([0, *counts]).cumsum(0)
        return Classes(offsets, [str(c) for c in range(len(counts))], [""] * len(counts))

    return {"what": f"{images} synthetic images", **_prepared(build)}


def files_ours(folder: Path) -> Row:
    """Ours: decoded in parallel, written chunk by chunk."""
    files = _class_files(folder)

    def build(write: Write) -> Classes:
        offsets = write_pictures(write, files, Pictures(image_shape=(3, SIDE, SIDE), side=SIDE)).offsets
        return Classes(offsets, list(files), [""] * len(files))

    return _prepared(build)


def files_loop(folder: Path) -> Row:
    """The plain loop."""
    from PIL import Image, ImageOps

    memory, load, begin = PeakMemory("cpu"), Load(), time.perf_counter()
    rows = []
    for paths in _class_files(folder).values():
        for path in paths:
            with Image.open(path) as picture:
                fitted = ImageOps.fit(picture.convert("RGB"), (SIDE, SIDE), Image.Resampling.BILINEAR)
                rows.append(np.asarray(fitted).transpose(2, 0, 1))
    np.stack(rows)
    return {"s": time.perf_counter() - begin, "MB": memory.peak_mb(), "others %": load.others()}


def data_set(name: str) -> Row:
    """One of $FEWSHOT_DATA, into an empty cache."""
    from fewshot.assemble import load_images
    from fewshot.cli.compose import compose

    with tempfile.TemporaryDirectory() as folder:
        config = compose("config", [f"dataset={name}", f"cache_dir={folder}", "logger=console"]).config
        memory, load, begin = PeakMemory("cpu"), Load(), time.perf_counter()
        count, seconds = len(load_images(config).images), time.perf_counter() - begin
        return {
            "what": f"{count} images, dataset={name}", "s": seconds, "pictures/s": count / seconds,
            "MB": memory.peak_mb(), "others %": load.others(),
        }  # fmt: skip


def compared(name: str, folder: Path, quick: bool) -> Row:
    count = sum(map(len, _class_files(folder).values()))
    loop, ours = (alone(quick, side, folder) for side in (files_loop, files_ours))
    return {
        "loop / ours": loop["s"] / ours["s"], "what": f"{count} files, {name}", "s": ours["s"], "loop s": loop["s"],
        "pictures/s": count / ours["s"], "MB": ours["MB"], "loop MB": loop["MB"],
        "others %": max(loop["others %"], ours["others %"]),
    }  # fmt: skip


def made(folder: Path, width: int, height: int, files: int) -> None:
    """Noise that is smooth enough to be packed as photographs are."""
    from PIL import Image

    noise = np.random.default_rng(0)
    for i in range(files):
        path = folder / f"class{i % 10}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if width * height > 10**6 and i >= DISTINCT:
            path.hardlink_to(folder / f"class{i % DISTINCT % 10}" / f"{i % DISTINCT}.jpg")
            continue
        small = Image.fromarray(noise.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8))
        small.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)


def _class_files(folder: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.jpg")):
        files.setdefault(str(path.parent), []).append(path)
    return files


def _prepared(build: Callable[[Write], Classes]) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        memory, load, begin = PeakMemory("cpu"), Load(), time.perf_counter()
        prepared(folder, "bench", {}, build)
        return {"s": time.perf_counter() - begin, "MB": memory.peak_mb(), "others %": load.others()}


def main(argv: Sequence[str] | None = None) -> None:
    words = parser(__doc__)
    words.add_argument("--folder", type=Path, help="class folders of JPEG files")
    words.add_argument("--dataset", help="a data set in $FEWSHOT_DATA")
    args = words.parse_args(argv)
    rows = [alone(args.quick, synthetic, 700 if args.quick else 100_000)]
    for name, width, height, files in MADE[:2] if args.quick else MADE:
        with tempfile.TemporaryDirectory() as folder:
            made(Path(folder), width, height, 20 if args.quick else files)
            rows.append(compared(name, Path(folder), args.quick))
            print(rows[-1], flush=True)
    options = []
    if args.folder:
        rows.append(compared(args.folder.name, args.folder, args.quick))
        options.append(f"--folder {args.folder.name}")
    if args.dataset:
        rows.append(alone(args.quick, data_set, args.dataset))
        options.append(f"--dataset {args.dataset}")
    report("preparation", args, rows, " ".join(options))


if __name__ == "__main__":
    main()
