"""Test episodes in a file, so that another library can be scored on the very same ones. Layer 3.

A NumPy archive (.npz), to be written by either side:
    dataset    name of the data set       split_hash  of its classes and splits
    classes    [E, N] int64, class ids of the data set: class c has the images offsets[c]..offsets[c+1]-1
    support    [E, N, K] int64, rows of the image array, of class n of the episode
    query      [E, M] int64, rows of the image array      query_y  [E, M] int64 in 0..N-1
               where episodes differ in size (see `sizes`) -1 stands, at the end, for what a smaller one does not have
    offsets    [C+1] int64     class_names  [C] text      both of the whole data set; not read
"""

import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewshot import records
from fewshot.datasets.base import ImageSet
from fewshot.engine.durable import replace
from fewshot.errors import InputError
from fewshot.sampler import Drawn, EpisodeSampler

ARRAYS = {"classes": 2, "support": 3, "query": 2, "query_y": 2}  # how many axes each has
AT_A_TIME = 1000  # episodes


def share(path: Path, sampler: EpisodeSampler, images: ImageSet, episodes: int) -> None:
    """Give the sampler the episodes of the file; where there is no file, write its own there first.

    InputError where the file's episodes are not of this data set, this split and these sizes, or too few.
    """
    if path.suffix != ".npz":
        raise InputError(f"evaluation.episodes_file={path} is no name of such a file; let it end in .npz")
    if not path.exists():
        write(path, sampler, images, episodes)
    sampler.given = read(path, sampler, images, episodes)
    sampler.given_from = hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def write(path: Path, sampler: EpisodeSampler, images: ImageSet, episodes: int) -> None:
    """Episodes 0..episodes-1 of the sampler."""
    spans = [(first, min(AT_A_TIME, episodes - first)) for first in range(0, episodes, AT_A_TIME)]
    drawn = Drawn(*[torch.cat(parts).cpu() for parts in zip(*[sampler.draw(*span) for span in spans], strict=True)])
    over = torch.arange(sampler.shots) >= drawn.shots[..., None]  # [E, N, K]
    content = io.BytesIO()
    np.savez_compressed(
        content, dataset=images.name, split_hash=images.split_hash(),
        classes=sampler.source.classes[drawn.position].masked_fill(drawn.shots == 0, -1),
        support=drawn.support.masked_fill(over, -1), query=drawn.query.masked_fill(~drawn.real, -1),
        query_y=drawn.query_y.masked_fill(~drawn.real, -1), offsets=images.offsets.cpu(),
        class_names=np.array(images.class_names),
    )  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, content.getvalue())
    except OSError as error:
        raise InputError(f"cannot write evaluation.episodes_file={path}: {error.strerror}; choose another") from error


def read(path: Path, sampler: EpisodeSampler, images: ImageSet, episodes: int) -> Drawn:
    """The first `episodes` of the file, queries sorted by class, on the sampler's device."""
    try:
        file = records.read_arrays(path)
        said = {key: str(file[key]) for key in ("dataset", "split_hash")}
        classes, support, query, query_y = (_whole(key, file[key][:episodes]) for key in ARRAYS)
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"evaluation.episodes_file={path} holds no episodes: {error}") from error
    own = {"dataset": images.name, "split_hash": images.split_hash()}
    if said != own:
        raise InputError(f"evaluation.episodes_file={path} is of {said}, this run's data are {own}")
    wanted = [episodes, sampler.ways, sampler.shots, sampler.total_queries]
    have = [len(classes), *support.shape[1:], query.shape[1]]
    if have != wanted or query_y.shape != query.shape or classes.shape != support.shape[:2]:
        raise InputError(
            f"evaluation.episodes_file={path} has episodes, ways, shots, queries in all {have}, this run asks for "
            f"{wanted}; change evaluation.episodes, ways, shots or queries, or choose another file"
        )
    there = support >= 0  # [E, N, K]
    shots = there.sum(-1)
    _refuse_gaps(path, classes, there, shots, query, query_y, padded=sampler.padded)
    query_y, order = (t.contiguous() for t in query_y.where(query >= 0, sampler.ways).sort(dim=1, stable=True))
    query = query.gather(1, order)
    real = query >= 0
    position = _positions(path, classes, sampler.source.classes)
    _refuse_strangers(path, images, classes, support, query, query_y)
    place = torch.arange(query.shape[1])
    number = place - torch.searchsorted(query_y, query_y)  # the first of its class is 0
    query_y, fill = query_y.where(real, 0), sampler.source.starts.cpu()[position]  # any image of a class will do
    support, query = support.where(there, fill[..., None]), query.where(real, fill.gather(1, query_y))
    drawn = Drawn(position, support, query, query_y, number, torch.zeros_like(position), shots, real)
    return Drawn(*[t.to(sampler.source.device) for t in drawn])


def _whole(key: str, array: np.ndarray) -> Tensor:
    """Its numbers as int64. ValueError where they are none, or not in as many axes as `key` has."""
    if array.dtype.kind not in "iu" or array.ndim != ARRAYS[key]:
        raise ValueError(f"{key} is {array.dtype} {list(array.shape)}, expected whole numbers in {ARRAYS[key]} axes")
    return torch.from_numpy(array.astype(np.int64))


def _positions(path: Path, classes: Tensor, of_split: Tensor) -> Tensor:
    """Class ids [E, N] -> their places within the split, 0 for -1."""
    found = classes[..., None] == of_split  # [E, N, classes of the split]
    strangers = classes[~found.any(-1) & (classes != -1)]
    if len(strangers):
        stranger = int(strangers[0])
        raise InputError(f"evaluation.episodes_file={path}: class {stranger} is not in the split that is tested")
    return found.long().argmax(-1)


def _refuse_gaps(
    path: Path, classes: Tensor, there: Tensor, shots: Tensor, query: Tensor, query_y: Tensor, *, padded: bool
) -> None:
    """InputError where -1 stands for something that an episode needs, or not at the end."""
    at_the_end = torch.equal(there, torch.arange(there.shape[-1]) < shots[..., None])
    ways = (shots > 0).sum(1, keepdim=True)  # [E, 1]
    at_the_end &= torch.equal(shots > 0, torch.arange(shots.shape[1]) < ways) and bool((ways > 1).all())
    alike = torch.equal(classes >= 0, shots > 0) and torch.equal(query >= 0, query_y >= 0)
    if not (at_the_end and alike and (query_y < ways).all() and (query >= 0).any(1).all()):
        raise InputError(
            f"evaluation.episodes_file={path}: -1, for what an episode does not have, stands at the end of `support` "
            "and `classes` alike, and in `query` and `query_y` alike"
        )
    if not padded and not (there.all() and (query >= 0).all()):
        raise InputError(
            f"evaluation.episodes_file={path} has episodes of unequal size, this run's are of one; give shots, ways or "
            "queries as they were drawn, e.g. 'shots={low: 1, high: 9}'"
        )


def _refuse_strangers(
    path: Path, images: ImageSet, classes: Tensor, support: Tensor, query: Tensor, query_y: Tensor
) -> None:
    """InputError where an image is not of the class that the file says, or it or a class is in an episode twice."""
    own = torch.cat([classes, torch.full_like(classes[:, :1], -1)], 1)  # of the queries that are not there
    rows = torch.cat([support.flatten(1), query], 1)
    said = torch.cat([classes.repeat_interleave(support.shape[-1], 1), own.gather(1, query_y)], 1)
    truth = torch.searchsorted(images.offsets.cpu(), rows.contiguous(), right=True) - 1
    wrong = (truth != said) & (rows >= 0)
    if wrong.any():
        row = int(rows[wrong][0])
        raise InputError(f"evaluation.episodes_file={path}: image {row} is not of the class that the file says")
    for what, ids in (("an image", rows), ("a class", classes)):
        ordered = ids.sort(1).values
        if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
            raise InputError(f"evaluation.episodes_file={path}: an episode has {what} twice")
