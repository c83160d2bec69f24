"""Omniglot as easyfsl has it: PNG files in a folder for each character, opened and resized at every draw."""

import random
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from plain import Shape

Folders = list[str]  # one for each class


def extract(folder: Path) -> Folders:
    """The training characters of split `vinyals` from the archives that fewshot has downloaded."""
    from ours import compose

    from fewshot.datasets import archive, omniglot

    data = Path(compose("config", ["dataset=omniglot"]).config["data_dir"]).expanduser()
    paths = archive.obtain([part.zip for part in omniglot.PARTS], [data / f for f in omniglot.FOLDERS], fetch=True)
    names: dict[str, str] = {}  # "Alphabet/characterNN" -> folder
    for path in paths:
        with zipfile.ZipFile(path) as packed:
            for member in packed.namelist():
                if member.endswith(".png"):
                    packed.extract(member, folder)
                    *where, _ = member.split("/")
                    names["/".join(where[-2:])] = str(folder.joinpath(*where))
    characters = sorted(names)
    return [names[characters[c]] for c in omniglot.make_splits(characters, "vinyals", 0)["train"]]


def noise(folder: Path) -> Folders:
    """Ten classes of ten images that mean nothing."""
    from PIL import Image

    for c in range(10):
        (folder / str(c)).mkdir()
        for i in range(10):
            pixels = random.Random(10 * c + i).randbytes(105 * 105)
            Image.frombytes("L", (105, 105), pixels).convert("1").save(folder / str(c) / f"{i}.png")
    return [str(folder / str(c)) for c in range(10)]


def easyfsl_loader(characters: Folders, shape: Shape, tasks: int, workers: int) -> Iterable[Any]:
    """EasySet, TaskSampler and DataLoader; greyscale images of the network's size, nothing else done to them."""
    import json

    from torch.utils.data import DataLoader, Sampler
    from torchvision import transforms

    if Sampler.__init__ is object.__init__:  # today's Sampler takes no argument, easyfsl 1.5.0 gives it one
        Sampler.__init__ = lambda self, data_source=None: None  # type: ignore[method-assign]
    from easyfsl.datasets import EasySet
    from easyfsl.samplers import TaskSampler

    specs = Path(characters[0]).parent / "specs.json"
    specs.write_text(json.dumps({"class_names": characters, "class_roots": characters}))
    steps = [transforms.Grayscale(), transforms.Resize((shape.size, shape.size)), transforms.ToTensor()]
    if shape.dtype == "float64":
        steps.append(lambda x: x.double())
    images = EasySet(specs, transform=transforms.Compose(steps))
    sampler = TaskSampler(images, n_way=shape.ways, n_shot=shape.shots, n_query=shape.queries, n_tasks=tasks)
    return DataLoader(images, batch_sampler=sampler, num_workers=workers, collate_fn=sampler.episodic_collate_fn)
