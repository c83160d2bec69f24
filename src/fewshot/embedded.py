"""Episodes of embeddings: every image of a split goes through the backbone once. Layer 3.

Where an algorithm says `fixed_features`, an image's embedding is the same in all episodes, and 10 000 of them are
gathers from one array.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fewshot.algorithms.base import Algorithm, embed
from fewshot.engine.processes import Processes
from fewshot.engine.runtime import autocast
from fewshot.episode import Episode, check_logits
from fewshot.errors import InputError
from fewshot.sampler import EpisodeSampler

log = logging.getLogger("fewshot")
LARGEST = 2 << 30  # bytes of embeddings; beyond that images are embedded episode by episode
ALONE_OR_TOGETHER = 0.05  # relative difference that rounding to bf16 leaves room for; batch norm's is above 0.3


class EmbeddedEpisodes:
    """The episodes of `sampler` with embeddings [T, M, D] in the place of images.

    features: [images of the split, D], class by class.
    """

    def __init__(self, sampler: EpisodeSampler, features: Tensor) -> None:
        self.sampler, self.features = sampler, features
        sizes = sampler.source.sizes
        self._shift = sizes.cumsum(0) - sizes - sampler.source.starts  # [classes], from image row to feature row

    def sample(self, first: int | Tensor, tasks: int) -> Episode:
        """Episodes first..first+tasks-1, as `EpisodeSampler.sample` draws them."""
        sampler, drawn = self.sampler, self.sampler.draw(first, tasks)
        shift = self._shift[drawn.position]  # [T, N]
        support = self.features[(drawn.support + shift[..., None]).flatten(1)]  # [T, N*K, D]
        query = self.features[drawn.query + shift.gather(1, drawn.query_y)]  # [T, N*Q, D]
        return sampler.labelled(drawn, support, query)


def embedded(
    algorithm: Algorithm, sampler: EpisodeSampler, *, episodes: int, tasks: int, dtype: torch.dtype | None,
    before_batch: Callable[[], None], processes: Processes,
) -> EmbeddedEpisodes | None:  # fmt: skip
    """Where that is less work than `episodes` episodes of images and gives the same; None elsewhere.

    `tasks` episodes of images go through the backbone at a time; processes share the work.
    """
    per_episode = sampler.ways * (sampler.shots + sampler.queries)
    images = sampler.source.count
    if not (algorithm.fixed_features and sampler.fixed_images) or images >= episodes * per_episode:
        return None
    backbone: nn.Module = algorithm.backbone  # type: ignore[assignment]
    starts, sizes = sampler.source.starts.tolist(), sampler.source.sizes.tolist()
    rows = torch.cat([torch.arange(s, s + n) for s, n in zip(starts, sizes, strict=True)])
    mine, at_once = rows.tensor_split(processes.size)[processes.rank], tasks * per_episode
    parts: list[Tensor] = []
    for i in range(0, -(-images // processes.size), at_once):  # as often in all processes
        before_batch()
        x = sampler.images(mine[i : i + at_once].to(sampler.source.device))
        with autocast(sampler.source.device, dtype):
            parts.append(embed(backbone, x[None])[0])  # [B, D]
            if i == 0:
                pays = parts[0][0].nbytes * images <= LARGEST and _alone(backbone, x, parts[0])
                if processes.agree(None if pays else 1):
                    return None
    log.info("%d images were embedded once for %d episodes", images, episodes)
    together = torch.cat(parts)
    if processes.size > 1:
        together = torch.cat(processes.gather(together.cpu())).to(together.device)
    return EmbeddedEpisodes(sampler, together)


def check_features(algorithm: Algorithm, sampler: EpisodeSampler, dtype: torch.dtype | None) -> None:
    """InputError where `fixed_features` is true and features do not give what images give: the test would find it.

    Called in evaluation mode, without gradients.
    """
    name, backbone = type(algorithm).__name__, getattr(algorithm, "backbone", None)
    if not (algorithm.fixed_features and sampler.fixed_images):
        return
    if not isinstance(backbone, nn.Module):
        raise InputError(f"{name}.fixed_features is true, but it has no `backbone`, the network that embeds images")
    episode = next(sampler.sample(0, 1).unpadded())

    def logits(model: Algorithm, support: Tensor, query: Tensor) -> Tensor:
        state = model.adapt(support, episode.support_y, ways=episode.ways)
        found = model.predict(state, query)
        check_logits(f"{name}.predict", found, episode)
        return found.float()

    with autocast(sampler.source.device, dtype):
        of_images = logits(algorithm, episode.support_x, episode.query_x)
        z = [embed(backbone, x) for x in (episode.support_x, episode.query_x)]
        of_features = logits(algorithm.on_features(), *z)
    if of_images.isfinite().all() and not (of_features - of_images).norm() <= ALONE_OR_TOGETHER * of_images.norm():
        raise InputError(
            f"{name}.fixed_features is true, but its predictions for embeddings are not those for their images; "
            "set it to False, or let only `self.backbone` see images"
        )


def _alone(backbone: nn.Module, x: Tensor, z: Tensor) -> bool:
    """Whether the embeddings of the first two images are what they are among the others."""
    alone = embed(backbone, x[None, :2])[0]
    return bool((alone - z[:2]).norm() <= ALONE_OR_TOGETHER * z[:2].norm())
