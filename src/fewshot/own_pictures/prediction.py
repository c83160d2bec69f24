"""What `fewshot predict` finds out: the classes of pictures, learned from a few in class folders. Layer 4."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fewshot.copies import Copies
from fewshot.errors import InputError, some
from fewshot.folders import Folder, class_folder, left_out, look_into
from fewshot.own_pictures.features import FeatureCache, Known
from fewshot.own_pictures.scores import (
    Accuracy,
    Findings,
    Judged,
    accuracy,
    findings,
    scale_of,
    softmax,
    threshold,
)
from fewshot.printable import printable

Progress = Callable[[int, int], None]


class Labelled(NamedTuple):
    """The support pictures that are learned from."""

    paths: list[Path]
    names: list[str]  # of the N classes
    y: np.ndarray  # [M] int64
    notes: list[str]  # what was left out of the folder, a line for each reason


class Prediction(NamedTuple):
    """P query pictures, classified by M support pictures of N classes."""

    support: Labelled
    query: list[Path]
    probabilities: np.ndarray  # [P, N] float64
    near: np.ndarray  # [P, K] support pictures, the nearest first
    unknown: np.ndarray | None  # [P] bool, where a threshold was asked for
    threshold: float | None
    findings: Findings
    truth: list[str] | None  # the class folder of each query, where there are such
    accuracy: Accuracy | None  # by `truth`
    notes: list[str]

    def order(self) -> list[int]:
        """The queries, least certain first."""
        return np.argsort(self.probabilities.max(-1), kind="stable").tolist()

    def name(self, i: int) -> str:
        """The path of query i below the folder that holds all of them, printable."""
        folder = os.path.commonpath([path.parent.absolute() for path in self.query])
        return printable(os.path.relpath(self.query[i].absolute(), folder))

    def label(self, i: int) -> str:
        """The most probable class of query i, or "unknown"."""
        if self.unknown is not None and self.unknown[i]:
            return UNKNOWN
        return self.support.names[self.best(i)[0]]

    def runner_up(self, i: int) -> str:
        """The second most probable class of query i."""
        return self.support.names[self.best(i)[1]]

    def best(self, i: int) -> list[int]:
        """The two most probable classes of query i."""
        return np.argsort(-self.probabilities[i], kind="stable")[:2].tolist()


UNKNOWN = "unknown"


def predict(
    support: Path, query: Sequence[Path], cache: FeatureCache, *, unknown: float | None = None, skip: bool = False,
    progress: Progress = lambda done, of: None,
) -> Prediction:  # fmt: skip
    """Classify the pictures of `query` (one folder, or files) by the class folders in `support`.

    unknown: the share of pictures of known classes that may be called unknown; None: none is. skip: leave unreadable
    pictures out and say so, where it is an error otherwise. progress: is told of pictures that are new to the cache.
    InputError for everything that the user can mend.
    """
    if unknown is not None and not 0 < unknown < 1:
        raise InputError(f"unknown={unknown} is no share between 0 and 1; 0.05 calls 5 % of known pictures unknown")
    folder, asked = class_folder(support), _queries(query)
    known, unreadable = cache.look_at([*folder.paths, *asked.paths], progress)
    notes = _unreadable_notes(unreadable, skip)
    own, other = known[: len(folder.paths)], known[len(folder.paths) :]
    learned, support_known = _without_copies(folder, own)
    kept = [i for i, one in enumerate(other) if one is not None]
    if not kept:
        raise InputError(f"none of the {len(other)} query pictures can be read")
    asked = asked._replace(paths=[asked.paths[i] for i in kept], labels=[asked.labels[i] for i in kept])
    shown = [one for one in other if one is not None]
    seen = {one.pixels for one in own if one is not None}
    new = np.array([one.pixels not in seen for one in shown])
    if not new.all():
        notes.append(f"query: {int((~new).sum())} of {len(new)} pictures are in support, too; no accuracy counts them")
    judged = cache.judge(cache.features(support_known), learned.y, len(learned.names), cache.features(shown))
    notes += [f"query: {note}" for note in left_out(asked)]
    return _concluded(judged, learned, asked, new, unknown, [*learned.notes, *notes])


def learn(
    support: Path, cache: FeatureCache, *, skip: bool = False, progress: Progress = lambda done, of: None
) -> tuple[Labelled, np.ndarray]:
    """The pictures of the class folders in `support`, and what the method keeps of them; errors as for `predict`."""
    folder = class_folder(support)
    known, unreadable = cache.look_at(folder.paths, progress)
    notes = _unreadable_notes(unreadable, skip)
    learned, kept = _without_copies(folder, known)
    return learned._replace(notes=[printable(note) for note in (*learned.notes, *notes)]), cache.features(kept)


def _concluded(
    judged: Judged, learned: Labelled, asked: Folder, new: np.ndarray, unknown: float | None, notes: list[str]
) -> Prediction:
    """Scores, made into probabilities and accuracies. new [P] bool: the queries that are no support pictures."""
    scale = scale_of(judged.left_out, learned.y)
    probabilities = softmax(scale * judged.query)
    limit = None if unknown is None else threshold(softmax(scale * judged.left_out), learned.y, unknown)
    doubtful = None if limit is None else probabilities.max(-1) < limit
    truth, right = _truth(asked.labels, learned.names, open_set=unknown is not None), None
    if truth is not None:
        place = np.array([learned.names.index(t) if t in learned.names else -1 for t in truth])
        right = accuracy((probabilities.argmax(-1) == place)[new & (place >= 0)])
    return Prediction(
        learned, asked.paths, probabilities, judged.near, doubtful, limit, findings(judged.left_out, learned.y),
        truth, right, [printable(note) for note in notes],
    )  # fmt: skip


def _queries(query: Sequence[Path]) -> Folder:
    """One folder, or files."""
    if len(query) == 1 and query[0].is_dir():
        return look_into(query[0])
    if missing := [path for path in query if not path.is_file()]:
        raise InputError(f"query: no files: {some(missing)}; give one folder, or files")
    return Folder(list(query), [""] * len(query), [], [])


def _truth(labels: Sequence[str], names: Sequence[str], *, open_set: bool) -> list[str] | None:
    """The classes of the queries by their folders; None where no folder is named after a class."""
    if not set(labels) & set(names):
        return None
    strange = sorted(set(labels) - set(names))
    if strange and not open_set:
        raise InputError(
            f"query has {len(strange)} folders that are no class of support ({some([s or '.' for s in strange])}); "
            f"add pictures of them to support, or set unknown=0.05"
        )
    return list(labels)


def _without_copies(folder: Folder, known: Sequence[Known | None]) -> tuple[Labelled, list[Known]]:
    """The readable pictures, each once in a class; one with the same pixels in another class stays, and is named."""
    copies = Copies()
    kept = [
        i for i, (one, label) in enumerate(zip(known, folder.labels, strict=True))
        if one is not None and copies.is_new(one.pixels, label, folder.paths[i].name)
    ]  # fmt: skip
    names = sorted({folder.labels[i] for i in kept})
    if lost := sorted(set(folder.labels) - set(names)):
        raise InputError(f"no picture of {some(lost)} can be read")
    notes = [f"support: {note}" for note in (*left_out(folder), *copies.notes())]
    y = np.array([names.index(folder.labels[i]) for i in kept])
    return Labelled([folder.paths[i] for i in kept], names, y, notes), [one for i in kept if (one := known[i])]


def _unreadable_notes(unreadable: dict[Path, str], skip: bool) -> list[str]:
    if not unreadable:
        return []
    first = next(iter(unreadable.values()))
    if not skip:
        more = f" ({len(unreadable)} such files)" if len(unreadable) > 1 else ""
        raise InputError(f"{first}{more}; remove it, or set unreadable=skip")
    return [f"{len(unreadable)} unreadable files left out ({some([path.name for path in unreadable])}): {first}"]


def pictures_per_class(support: Labelled) -> dict[str, int]:
    """Name -> how many pictures it has."""
    return dict(Counter(support.names[c] for c in support.y.tolist()))
