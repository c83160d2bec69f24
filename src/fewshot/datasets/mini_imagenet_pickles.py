"""The two forms in which miniImageNet goes round as pickles of arrays, a file for each split. Layer 1.

mini-imagenet-cache-<split>.pkl (Ren et al. 2018, arXiv:1803.00676): image_data [M, 84, 84, 3] uint8, class_dict
    of each class's rows
miniImageNet_category_split_*.pickle (Gidaris & Komodakis 2018, arXiv:1804.09458): data [M, 84, 84, 3] uint8,
    labels [M], catname2label of each class's label
"""

from pathlib import Path
from typing import Any

import numpy as np

from fewshot.datasets.pickles import read_arrays
from fewshot.errors import InputError

FORMS = (
    ("mini-imagenet-cache-train.pkl", "mini-imagenet-cache-val.pkl", "mini-imagenet-cache-test.pkl"),
    ("miniImageNet_category_split_train_phase_train.pickle", "miniImageNet_category_split_val.pickle",
     "miniImageNet_category_split_test.pickle"),
)  # fmt: skip


def find(root: Path) -> list[Path]:
    """The three files of a form of which all are in the folder; none where there is no such form."""
    for names in FORMS:
        if all((root / name).is_file() for name in names):
            return [root / name for name in names]
    return []


def read(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A file's images [M, 84, 84, 3] uint8 and the rows of each class; it is read whole.

    InputError where it is damaged, or has other things in it.
    """
    with path.open("rb") as file:
        content = read_arrays(file, str(path))
    try:
        data = {_text(key): value for key, value in content.items()}
        if "class_dict" in data:
            images = data["image_data"]
            rows = {_text(name): np.asarray(own) for name, own in data["class_dict"].items()}
        else:
            images, labels = data["data"], np.asarray(data["labels"])
            rows = {_text(name): np.flatnonzero(labels == label) for name, label in data["catname2label"].items()}
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(f"its images are {list(images.shape)} {images.dtype}, not [M, H, W, 3] uint8")
        if odd := [name for name, own in rows.items() if own.size and own.dtype.kind not in "iu"]:
            raise ValueError(f"the rows of class {odd[0]} are no whole numbers")
        if any(own.size and not 0 <= own.min() <= own.max() < len(images) for own in rows.values()):
            raise IndexError(f"a class has rows that are not in 0 to {len(images) - 1}")
        return images, rows
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no pickle of miniImageNet: {type(error).__name__}: {error}") from error


def _text(key: Any) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)
