"""What a network makes of picture files, computed once: what is known of a file's content is kept. Layer 4.

One file for each picture, <cache_dir>/features/<network>/<sha256 of the content>.npz: `features` of its views and the
hash of its pixels. A picture that was renamed or moved is found again; one that was edited is not. torch is not
imported here: where all pictures are known, nothing needs it.
"""

import contextlib
import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from zipfile import BadZipFile

import numpy as np

from fewshot.decoding import decode, read
from fewshot.errors import FewshotError, InputError, first_line
from fewshot.own_pictures.scores import Judged
from fewshot.own_pictures.views import pixels_hash

FORMAT = 3
BATCH = 8  # pictures that go through the network at a time
IN_MEMORY = 1 << 30  # bytes of features; more than that stay on disk
UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile)  # of a file that is not what was written
OTHER = "take another run, other weights or lower inner rates"


class Method(Protocol):
    """How pictures are classified: what is kept of each, and how new ones are judged by labelled ones."""

    def images(self, picture: Any) -> np.ndarray:
        """A PIL image in RGB -> [C, S, S] uint8: what the network is shown of it."""

    def embed(self, images: np.ndarray) -> np.ndarray:
        """[B, C, S, S] uint8 -> [B, V, ...] of V views: what does not depend on other pictures."""

    def judge(self, support: np.ndarray, y: np.ndarray, ways: int, query: np.ndarray) -> Judged:
        """support [M, V, ...] and query [P, V, ...] as `embed` gives them, y [M] int in 0..N-1."""

    def fitted(self, support: np.ndarray, y: np.ndarray, ways: int) -> Any:
        """What was learned, as a torch module: [B, C, S, S] float32 in [0, 1] -> scores [B, N]."""

    @property
    def rules(self) -> dict[str, Any]:
        """How a picture becomes an image, in the words of `exported.py`."""


class Known(NamedTuple):
    """A picture whose features are kept."""

    content: str  # hash of the file's bytes
    pixels: str  # hash


class FeatureCache:
    """What a method's network makes of pictures. key: all that this depends on; it names the folder."""

    def __init__(self, cache_dir: Path, key: Mapping[str, Any], method: Method) -> None:
        text = json.dumps({"format": FORMAT, **key}, sort_keys=True)
        self.folder = cache_dir / "features" / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.method = method
        self.unwritten: dict[str, np.ndarray] = {}  # content -> features that could not be written

    def look_at(
        self, paths: Sequence[Path], progress: Callable[[int, int], None] = lambda done, of: None
    ) -> tuple[list[Known | None], dict[Path, str]]:
        """Each file as one whose features are kept, None where it is unreadable, and why it is.

        progress: is told how many of how many new pictures have been through the network.
        """
        with ThreadPoolExecutor() as pool:
            digests = list(pool.map(_digest, paths))
        found = {digest: self._known(digest) for digest in set(digests) if not isinstance(digest, InputError)}
        unreadable = {p: str(d) for p, d in zip(paths, digests, strict=True) if isinstance(d, InputError)}
        new = {d: p for p, d in zip(paths, digests, strict=True) if isinstance(d, str) and found[d] is None}
        done = 0
        for batch in _batches(list(new.items())):
            for digest, known in self._compute(batch):
                found[digest] = known if isinstance(known, Known) else None
                if not isinstance(known, Known):
                    unreadable |= {p: str(known) for p, d in zip(paths, digests, strict=True) if d == digest}
            done += len(batch)
            progress(done, len(new))
        return [found[d] if isinstance(d, str) else None for d in digests], unreadable

    def features(self, known: Sequence[Known]) -> np.ndarray:
        """[M, V, ...] of M pictures, as `Method.embed` gives them; more than IN_MEMORY bytes lie in a temporary file.

        FewshotError where that finds no room.
        """
        first = self._features(known[0])
        shape = (len(known), *first.shape)
        if math.prod(shape) * first.itemsize <= IN_MEMORY:
            return np.stack([self._features(one) for one in known])
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                for one in known:
                    file.write(self._features(one).tobytes())
                file.flush()
                return np.memmap(file, first.dtype, "c", shape=shape)  # c: what is written to it stays in memory
        except OSError as error:
            size = f"{math.prod(shape) * first.itemsize / 1e9:.1f} GB of features"
            raise FewshotError(f"no room for {size} in {self.folder}: {error.strerror}; set cache_dir") from error

    def judge(self, support: np.ndarray, y: np.ndarray, ways: int, query: np.ndarray) -> Judged:
        """As `Method.judge`. InputError where a score is not finite, which would otherwise be some class."""
        judged = self.method.judge(support, y, ways, query)
        for which, scores in (("support", judged.left_out), ("query", judged.query)):
            if wrong := int((~np.isfinite(scores).all(-1)).sum()):
                raise InputError(f"the scores of {wrong} of {len(scores)} {which} pictures are not finite; {OTHER}")
        return judged

    def _compute(self, batch: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, Known | InputError]]:
        def look(path: Path) -> tuple[np.ndarray, str] | InputError:
            try:
                picture = decode(read(path), str(path))
            except InputError as error:
                return error
            return self.method.images(picture), pixels_hash(picture)

        with ThreadPoolExecutor() as pool:
            seen = list(pool.map(look, [path for _, path in batch]))
        good = [(d, s) for (d, _), s in zip(batch, seen, strict=True) if not isinstance(s, InputError)]
        yield from ((d, s) for (d, _), s in zip(batch, seen, strict=True) if isinstance(s, InputError))
        if good:
            features = self.method.embed(np.stack([images for _, (images, _) in good]))
            if not np.isfinite(features).all():
                raise InputError(f"what the network makes of pictures is not finite; {OTHER}")
            for (digest, (_, pixels)), one in zip(good, features, strict=True):
                known = Known(digest, pixels)
                self._store(known, one)
                yield digest, known

    def _known(self, content: str) -> Known | None:
        try:
            with np.load(self.folder / f"{content}.npz") as stored:
                return Known(content, str(stored["pixels"]))
        except UNREADABLE:  # missing, or not written to its end
            return None

    def _features(self, known: Known) -> np.ndarray:
        """[V, ...]."""
        if known.content in self.unwritten:
            return self.unwritten[known.content]
        file = self.folder / f"{known.content}.npz"
        try:
            with np.load(file) as stored:
                return stored["features"]
        except UNREADABLE as error:
            with contextlib.suppress(OSError):
                file.unlink()  # so that the next call computes it again
            raise FewshotError(f"{file} is damaged or gone: {first_line(error)}; run the command again") from error

    def _store(self, known: Known, features: np.ndarray) -> None:
        """Written beside its place, then renamed. A cache that cannot be written is no reason to stop."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
                np.savez(file, features=features, pixels=np.array(known.pixels))
            Path(file.name).replace(self.folder / f"{known.content}.npz")
        except OSError:
            self.unwritten[known.content] = features


def _digest(path: Path) -> str | InputError:
    try:
        return hashlib.sha256(read(path)).hexdigest()
    except InputError as error:
        return error


def _batches(items: Sequence[tuple[str, Path]]) -> Iterator[Sequence[tuple[str, Path]]]:
    for first in range(0, len(items), BATCH):
        yield items[first : first + BATCH]
