"""Pickles of arrays are read; nothing that they name is called."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from fewshot.datasets.pickles import read_arrays
from fewshot.errors import InputError

# numpy.array([65, 66], "u1") as Python 2 wrote it: bytes as its strings.
PYTHON_2 = (
    b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01K\x02\x85cnumpy\ndtype\n"
    b"(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02ABtb."
)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", ["u1", "<i8", ">f4"])
def test_arrays_come_back(protocol: int, kind: str) -> None:
    array = np.arange(24).astype(kind).reshape(2, 3, 4)
    value = {"a": array, "b": [np.asfortranarray(array[0]), 7], b"c": "text"}
    found = read_arrays(pickle.dumps(value, protocol), "here")
    assert np.array_equal(found["a"], array) and found["a"].dtype == array.dtype
    assert np.array_equal(found["b"][0], array[0]) and found["b"][1] == 7 and found[b"c"] == "text"


def test_python_2_wrote_its_bytes_as_texts() -> None:
    assert read_arrays(PYTHON_2, "here").tolist() == [65, 66]


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_nothing_named_in_a_pickle_is_called(tmp_path: Path) -> None:
    data = pickle.dumps({"data": [Evil(tmp_path / "ran")]})
    with pytest.raises(InputError, match=r"batch is not a pickle of arrays alone, or is damaged: it names \w+"):
        read_arrays(data, "batch")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pickle.dumps(np.array([{}, None], dtype=object), 2), "an array of objects"),
        (pickle.dumps(np.zeros(2, dtype="u1,f4"), 2), "an array of records"),
        (pickle.dumps(np.arange(9), 2)[:-9], "damaged"),
        (b"", "damaged"),
        (b"GIF89a", "damaged"),
    ],
)
def test_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_arrays(data, "batch")
