"""tieredImageNet: 608 classes of ImageNet, split by 34 categories of them, 351/97/160 classes. Layer 1.

Source: Ren et al. (2018), Meta-learning for semi-supervised few-shot classification, arXiv:1803.00676: all images of
the classes, at 84x84 pixels. The group of a class is its category.

No address has the images any more. Read are
    - ImageNet's own class folders (ILSVRC 2012, training images), in the root or one level below it;
    - the arrays that used to go round, see `tiered_imagenet_arrays.py`. Their classes have names of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from fewshot.datasets import cache
from fewshot.datasets import tiered_imagenet_arrays as arrays
from fewshot.datasets.class_lists import class_lists
from fewshot.datasets.picture_files import write_pictures
from fewshot.datasets.picture_set import PictureSet, Source, class_folders, files_in
from fewshot.errors import InputError
from fewshot.pictures import Pictures

IMAGES = {"train": 448_695, "val": 124_261, "test": 206_209}


@dataclass(frozen=True, kw_only=True)
class TieredImagenet(PictureSet):
    """The data set of `conf/dataset/tiered_imagenet.yaml`; a class is named by its WordNet number, as nXXXXXXXX."""

    name = "tiered_imagenet"
    folders = ("tiered_imagenet", "tieredImageNet", "tiered-imagenet", "ILSVRC2012", "imagenet")
    needs = (
        "ImageNet's class folders (ILSVRC 2012, train/nXXXXXXXX/*.JPEG), or train_, val_ and test_labels.pkl with "
        "_images.npz or _images_png.pkl of each"
    )

    def lists(self) -> Mapping[str, Sequence[str]]:
        return {split: [*group_of] for split, group_of in self._groups().items()}

    def counts(self) -> Mapping[str, int]:
        return IMAGES

    def split_protocol(self) -> dict[str, str]:
        return {"split": "ren"}

    def source(self, root: Path) -> Source:
        if pairs := arrays.find(root):
            key = {"arrays": [(path.name, path.stat().st_size) for pair in pairs for path in pair]}
            return Source("its arrays", key, partial(self._from_arrays, pairs))
        found = self._found(root)
        for split, names in self.lists().items():
            if without := [name for name in names if not found[name]]:
                raise InputError(
                    f"{root}: {len(without)} classes of split '{split}' are not there ({without[0]}, ...); put "
                    f"there {self.needs}"
                )
            self.check(split, sum(found[name] for name in names), root)
        what = f"{sum(found.values())} files of {len(found)} classes"
        return Source(what, {"files": found}, partial(self._from_files, root))

    def _groups(self) -> dict[str, dict[str, str]]:
        """Split -> class -> its category."""
        listed = class_lists(self.name)
        return {s: {n: group for group, names in groups.items() for n in names} for s, groups in listed.items()}

    def _found(self, root: Path) -> dict[str, int]:
        """Class -> number of files: whenever a run starts they are counted, looked at one by one they are too many."""
        names = [name for listed in self.lists().values() for name in listed]
        found = dict.fromkeys(names, 0)
        for folder in class_folders(root, names):
            found[folder.name] += len(_own(folder))
        return found

    def _from_files(self, root: Path, write: cache.Write, pictures: Pictures) -> cache.Classes:
        groups = {name: group for of_split in self._groups().values() for name, group in of_split.items()}
        files: dict[str, list[Path]] = {name: [] for name in groups}
        for folder in class_folders(root, [*groups]):
            files[folder.name] += [folder / file for file in _own(folder)]
        for paths in files.values():
            paths.sort(key=lambda path: (path.name, str(path)))
        offsets, notes = write_pictures(write, files, pictures, unreadable=self.unreadable)
        return cache.Classes(offsets, [*groups], [*groups.values()], notes)

    def _from_arrays(self, pairs: Sequence[arrays.Pair], write: cache.Write, pictures: Pictures) -> cache.Classes:
        counts: list[int] = []
        names: list[str] = []
        groups: list[str] = []
        for (split, listed), pair in zip(self.lists().items(), pairs, strict=True):
            labels = arrays.read_labels(pair.labels, split)
            if len(labels.names) != len(listed):
                raise InputError(f"{pair.labels}: {len(labels.names)} classes, expected {len(listed)} of '{split}'")
            self.check(split, len(labels.rows), pair.labels)
            for some in arrays.read_images(pair.images, labels.rows):
                write(pictures.read(some))
            counts += labels.counts
            names += labels.names
            groups += labels.groups
        return cache.Classes(torch.tensor([0, *counts]).cumsum(0), names, groups)


def _own(folder: Path) -> list[str]:
    """The files of a class, nXXXXXXXX_*; others in such folders are ImageNet's validation images."""
    return [file for file in files_in(folder) if file.startswith(folder.name)]
