"""What a network makes of picture files, computed once: what is known of a file's content is kept. Layer 2.

One file for each picture, <cache_dir>/features/<network>/<sha256 of the content>.npz: `features` of its views and the
hash of its pixels. A picture that was renamed or moved is found again; one that was edited is not. torch is not
imported here: where all pictures are known, nothing needs it.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from fewshot.decoding import decode, read
from fewshot.errors import InputError
from fewshot.prediction import Judged
from fewshot.views import pixels_hash

FORMAT = 3
BATCH = 8  # pictures that go through the network at a time
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
    """What is kept of one picture."""

    features: np.ndarray  # [V, ...], as Method.embed gives it
    pixels: str  # hash


class FeatureCache:
    """What a method's network makes of pictures. key: all that this depends on; it names the folder."""

    def __init__(self, cache_dir: Path, key: Mapping[str, Any], method: Method) -> None:
        text = json.dumps({"format": FORMAT, **key}, sort_keys=True)
        self.folder = cache_dir / "features" / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.method = method

    def embed(
        self, paths: Sequence[Path], progress: Callable[[int, int], None] = lambda done, of: None
    ) -> tuple[list[Known | None], dict[Path, str]]:
        """What is known of each file, None where it is unreadable, and why it is.

        progress: is told how many of how many new pictures have been through the network.
        """
        with ThreadPoolExecutor() as pool:
            digests = list(pool.map(_digest, paths))
        found = {digest: self._load(digest) for digest in set(digests) if not isinstance(digest, InputError)}
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
                known = Known(one, pixels)
                self._store(digest, known)
                yield digest, known

    def _load(self, digest: str) -> Known | None:
        try:
            with np.load(self.folder / f"{digest}.npz") as stored:
                return Known(stored["features"], str(stored["pixels"]))
        except (OSError, ValueError, KeyError):  # missing, or not written to its end
            return None

    def _store(self, digest: str, known: Known) -> None:
        """Written beside its place, then renamed. A cache that cannot be written is no reason to stop."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
                np.savez(file, features=known.features, pixels=np.array(known.pixels))
            Path(file.name).replace(self.folder / f"{digest}.npz")
        except OSError:
            return


def _digest(path: Path) -> str | InputError:
    try:
        return hashlib.sha256(read(path)).hexdigest()
    except InputError as error:
        return error


def _batches(items: Sequence[tuple[str, Path]]) -> Iterator[Sequence[tuple[str, Path]]]:
    for first in range(0, len(items), BATCH):
        yield items[first : first + BATCH]
