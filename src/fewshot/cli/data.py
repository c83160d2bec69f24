"""`fewshot data list|prepare|verify|show`: words instead of overrides. Layer 6."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot.cli.compose import Composed, compose, conf_dir, search_first
from fewshot.cli.words import Words, count, path, write
from fewshot.errors import InputError

if TYPE_CHECKING:
    from fewshot.datasets.base import ImageSet


def main(argv: list[str]) -> int:
    parser = Words("fewshot data", description="List, prepare, verify, or look at data sets.")
    parser.add_argument("action", choices=["list", "prepare", "verify", "show"])
    meant = "a name from `fewshot data list`, and keys as for train, e.g. folder dataset.root=DIR"
    parser.add_argument("words", nargs="*", default=[], metavar="dataset", help=meant)
    parser.add_argument("--split", default="train", help="show: episodes of this split")
    parser.add_argument("--episodes", type=count, default=2, help="show: how many")
    parser.add_argument("--out", type=path, help="show: the PNG to write (default outputs/data/<dataset>.png)")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder with YAML files of your own, as for train")
    args = parser.parse_intermixed_args(argv)
    if args.action == "list":
        search_first(args.config_dir)
        return _list([conf_dir(), *([Path(args.config_dir)] if args.config_dir else [])])
    words = [word if "=" in word else f"dataset={word}" for word in args.words]
    if len([word for word in words if word.startswith("dataset=")]) != 1:
        raise InputError(f"fewshot data {args.action} needs one data set; `fewshot data list` names them")
    composed = compose("config", words, args.config_dir)
    return {"prepare": _prepare, "verify": _verify, "show": _show}[args.action](composed, args)


def _list(folders: list[Path]) -> int:
    for file in sorted(file for folder in folders for file in (folder / "dataset").glob("*.yaml")):
        first = file.read_text().split("\n", 1)[0]
        print(f"{file.stem:<12} {first.lstrip('# ') if first.startswith('#') else ''}".rstrip())
    return 0


def _prepare(composed: Composed, args: argparse.Namespace) -> int:
    from fewshot.assemble import load_images

    start = time.perf_counter()
    images = load_images(composed.config)
    seconds = time.perf_counter() - start
    _print_notes(images)
    for split, ids in images.splits.items():
        groups = {images.groups[c] for c in ids}
        print(f"{split:<10} {len(ids):>5} classes in {len(groups)} groups")
    shape = "x".join(map(str, images.image_shape))
    print(
        f"{images.name}: {int(images.offsets[-1])} images of {shape}, "
        f"split {images.split_hash()}, ready in {seconds:.2f} s"
    )
    return 0


def _verify(composed: Composed, args: argparse.Namespace) -> int:
    from fewshot.assemble import load_images, make_dataset
    from fewshot.datasets.duplicates import duplicates

    dataset = make_dataset(composed.config)
    verify = getattr(dataset, "verify", None)
    said = verify() if verify else None  # the raw files first: it lists all that is damaged in them
    images = load_images(composed.config, dataset)
    print(said or f"{images.name}: in order")
    _print_notes(images)
    print(f"{images.name}: {duplicates(images)}")
    return 0


def _show(composed: Composed, args: argparse.Namespace) -> int:
    import torch

    from fewshot.assemble import episode_sampler, load_images
    from fewshot.report.episodes import blanked, draw_episodes
    from fewshot.report.style import png
    from fewshot.sizes import in_words
    from fewshot.text import file_name
    from fewshot.trained import chosen_names

    config = composed.config
    images = load_images(config)
    training = args.split == config["train_split"]  # shown as training sees them
    sampler = episode_sampler(config, images, args.split, torch.device("cpu"), training=training)
    batch = blanked(sampler.sample(0, args.episodes))
    asked = "{}-way {}-shot, {} queries".format(*[in_words(config[key]) for key in ("ways", "shots", "queries")])
    name = chosen_names(config, composed.choices)["dataset"]
    figure = draw_episodes(batch, images.class_names, f"{name}, split '{args.split}': {asked}")
    file = args.out or Path(config["output_dir"]) / "data" / f"{file_name(name)}.png"
    write(file, png(figure, dpi=150))
    _print_notes(images)
    print(file)
    return 0


def _print_notes(images: "ImageSet") -> None:
    for note in images.notes:
        print(f"{images.name}: {note}")
