"""Rows of an array that may not stay in memory are asked for before they are needed."""

import mmap

import pytest
import torch

from fewshot.engine import read_ahead


def test_the_system_is_asked_for_the_pages_of_these_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[tuple[int, int, int]]()
    monkeypatch.setattr(read_ahead, "_madvise", lambda: lambda *range_and_advice: asked.append(range_and_advice))
    array = torch.zeros(9, 3, 41, 43, dtype=torch.uint8)
    read_ahead.read_ahead(array, torch.tensor([[7], [0]]))
    for row, (begin, length, advice) in zip((7, 0), asked, strict=True):
        pixels = array[row]
        assert begin <= pixels.data_ptr() < begin + mmap.PAGESIZE and begin % mmap.PAGESIZE == 0
        assert begin + length == pixels.data_ptr() + pixels.nbytes
        assert advice == mmap.MADV_WILLNEED


def test_the_system_takes_the_question() -> None:
    """Its answer is 0, and -1 where no page begins."""
    advise = read_ahead._madvise()
    assert advise is not None
    array = torch.zeros(4 * mmap.PAGESIZE, dtype=torch.uint8)
    page = -(-array.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    assert advise(page, mmap.PAGESIZE, 3) == 0
    assert advise(page + 1, mmap.PAGESIZE, 3) == -1


def test_small_arrays_are_left_alone() -> None:
    byte = torch.zeros(1, dtype=torch.uint8)
    assert not read_ahead.is_large(byte.expand(read_ahead.LARGE - 1))
    assert read_ahead.is_large(byte.expand(read_ahead.LARGE))
