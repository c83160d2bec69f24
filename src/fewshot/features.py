"""Embeddings of picture files, computed once: what is known of a file's content is kept. Layer 2.

One file for each picture, <cache_dir>/features/<network>/<sha256 of the content>.npz: `features` [4, D] float32 of
its views and the hash of its pixels. A picture that was renamed or moved is found again; one that was edited is not.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fewshot.backbones.image_input import ImageInput
from fewshot.decoding import decode, read
from fewshot.errors import InputError
from fewshot.views import Size, pixels_hash, views

FORMAT = 1
BATCH = 8  # pictures that go through the network at a time


class Known(NamedTuple):
    """What is kept of one picture."""

    features: np.ndarray  # [4, D] float32
    pixels: str  # hash


class FeatureCache:
    """Embeddings by one network. key: all that its weights and its input depend on; it names the folder.

    make: gives the network, which has an `input` (ImageInput); it is called only where a picture is not known yet.
    """

    def __init__(
        self, cache_dir: Path, key: Mapping[str, Any], make: Callable[[], nn.Module], device: torch.device
    ) -> None:
        text = json.dumps({"format": FORMAT, **key}, sort_keys=True)
        self.folder = cache_dir / "features" / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.make, self.device = make, device
        self._network: nn.Module | None = None

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

    def _compute(self, batch: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, Known | InputError]]:
        network = self.network()
        shown = network.input
        assert isinstance(shown, ImageInput)

        def look(path: Path) -> tuple[Tensor, str] | InputError:
            try:
                picture = decode(read(path), str(path))
            except InputError as error:
                return error
            return views(picture, Size(shown.size, shown.resize), shown.interpolation), pixels_hash(picture)

        with ThreadPoolExecutor() as pool:
            seen = list(pool.map(look, [path for _, path in batch]))
        good = [(d, s) for (d, _), s in zip(batch, seen, strict=True) if not isinstance(s, InputError)]
        yield from ((d, s) for (d, _), s in zip(batch, seen, strict=True) if isinstance(s, InputError))
        if not good:
            return
        x = torch.cat([s[0] for _, s in good]).to(self.device, torch.float32) / 255  # [4 B, 3, S, S]
        with torch.no_grad():
            z = network(x.contiguous(memory_format=torch.channels_last)).float().cpu()
        for (digest, (_, pixels)), features in zip(good, z.unflatten(0, (len(good), -1)).numpy(), strict=True):
            known = Known(features, pixels)
            self._store(digest, known)
            yield digest, known

    def network(self) -> nn.Module:
        """The network on its device, in eval mode; made at the first call."""
        if self._network is None:
            self._network = self.make().to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        return self._network

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
