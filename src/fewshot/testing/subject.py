"""An algorithm under examination: copies of it, episodes and training batches for it, and how it is called."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fewshot.algorithms.base import Algorithm
from fewshot.episode import Batch, Episode, Episodes, Minibatch, StepOutput

TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-3}  # of the largest logit, or of the gradient's norm
LEARNING_RATE = 0.01  # of the training steps in between


class Fault(Exception):
    """A property that does not hold."""


class Subject:
    """The algorithm in question, with episodes for it: a class of a task is a pattern of its own, under noise."""

    def __init__(
        self, algorithm: Algorithm, image_shape: tuple[int, ...], ways: int, shots: int, queries: int, tasks: int,
        train_classes: int,
    ) -> None:  # fmt: skip
        self.dtype, self.given = torch.float64, algorithm
        self.image_shape, self.ways, self.shots = image_shape, ways, shots
        self.queries, self.tasks, self.train_classes = queries, tasks, train_classes
        self.device = next(algorithm.parameters(), torch.empty(0)).device
        self._entered: list[str] = []

    def fresh(self) -> Algorithm:
        """A copy of its own, as it was given, in evaluation mode."""
        made = copy.deepcopy(self.given).to(self.dtype).eval()
        for name, module in made.named_modules():
            note = f"{name} ({type(module).__name__})"
            module.register_forward_pre_hook(lambda *_, note=note: self._entered.append(note))
        return made

    def last_layer(self) -> str:
        """The last layer that was entered, where an error came up."""
        return f" (in layer {self._entered[-1]})" if self._entered else ""

    def episode(self, *, seed: int = 0, **sizes: int) -> Episode:
        ways, shots, queries = (sizes.get(key, getattr(self, key)) for key in ("ways", "shots", "queries"))
        noise = torch.Generator().manual_seed(seed)
        patterns = torch.rand(self.tasks, ways, 1, *self.image_shape, generator=noise, dtype=torch.float64)

        def images(count: int) -> Tensor:
            shape = (self.tasks, ways, count, *self.image_shape)
            x = (patterns + torch.rand(shape, generator=noise, dtype=torch.float64)) / 2
            return x.flatten(1, 2).to(self.device, self.dtype)  # [T, N*count, C, H, W]

        labels = torch.arange(ways, device=self.device)
        y = [labels.repeat_interleave(count).repeat(self.tasks, 1) for count in (shots, queries)]
        return Episode(images(shots), y[0], images(queries), y[1], labels.repeat(self.tasks, 1))

    def batch(self, seed: int = 0) -> Batch:
        """A training batch of the algorithm's kind."""
        episode = self.episode(seed=seed)
        if isinstance(self.given.stream, Episodes):
            return episode
        x = torch.cat([episode.support_x, episode.support_x.flip(-1)]).flatten(0, 1)  # an even number
        return Minibatch(x, torch.arange(len(x), device=self.device) % self.train_classes)

    def unequal(self) -> Episode:
        """Three tasks or more of unequal size: the first has one image less of a class, the second one class less, the
        last one query less."""
        episode = self.episode()
        support_y, query_y, classes = episode.support_y.clone(), episode.query_y.clone(), episode.classes.clone()
        support_y[0, self.shots - 1] = query_y[-1, self.queries - 1] = -1
        support_y[1, -self.shots :] = query_y[1, -self.queries :] = classes[1, -1] = -1
        return episode._replace(support_y=support_y, query_y=query_y, classes=classes)

    def logits(self, episode: Episode, algorithm: Algorithm | None = None) -> Tensor:
        """Predictions as an evaluation makes them: [T, N*Q, N]."""
        algorithm = algorithm or self.fresh()
        with torch.no_grad():
            state = algorithm.adapt(episode.support_x, episode.support_y, ways=episode.ways)
            return self.checked(algorithm.predict(state, episode.query_x), episode)

    def checked(self, logits: Any, episode: Episode) -> Tensor:
        if not isinstance(logits, Tensor):
            raise Fault(f"predict gave a {type(logits).__name__}; expected a tensor [T, N*Q, N]")
        wanted = (*episode.query_y.shape, episode.ways)
        if logits.shape != wanted:
            raise Fault(
                f"ways={episode.ways}: predict gave logits of shape {tuple(logits.shape)}; expected {wanted}, "
                "that is tasks, queries, ways"
            )
        if not logits.is_floating_point() or not logits.isfinite().all():
            raise Fault(f"predict gave logits that are not finite numbers ({logits.dtype})")
        return logits

    def trained(self) -> Algorithm:
        """A copy after two steps of gradient descent in training mode."""
        algorithm = self.fresh().train()
        for seed in range(2):
            loss = self.step(algorithm, self.batch(seed)).loss
            parameters = [p for p in algorithm.parameters() if p.requires_grad]
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            with torch.no_grad():
                for p, g in zip(parameters, found, strict=True):
                    p.sub_(LEARNING_RATE * g if g is not None else 0)
        return algorithm.eval()

    def step(self, algorithm: Algorithm, batch: Batch) -> StepOutput:
        torch.manual_seed(0)
        out = algorithm(batch)
        if not isinstance(out, StepOutput):
            raise Fault(f"forward gave a {type(out).__name__}; expected StepOutput(loss, logits)")
        if out.loss.shape != () or not out.loss.isfinite():
            raise Fault(f"forward gave a loss of shape {tuple(out.loss.shape)}, {out.loss}; expected a finite scalar")
        if out.logits.shape[:-1] != batch.targets.shape:
            raise Fault(
                f"forward gave logits of shape {tuple(out.logits.shape)} for targets of {tuple(batch.targets.shape)}"
            )
        return out

    def same(self, found: Tensor, wanted: Tensor, fault: str) -> None:
        difference = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
        if not difference <= TOLERANCE[self.dtype]:
            raise Fault(f"{fault} (logits differ by {difference:.1e} of the largest)")


GENERATOR = "the state of the random generator"


def surroundings(algorithm: Algorithm) -> dict[str, Any]:
    """What a call might change besides weights, by its name in a sentence."""
    return {
        GENERATOR: torch.get_rng_state().numpy().tobytes(),
        "the default dtype": torch.get_default_dtype(),
        "the number of threads": torch.get_num_threads(),
        "the training mode of a module": [m.training for m in algorithm.modules()],
        "requires_grad of a parameter": [p.requires_grad for p in algorithm.parameters()],
    }


@contextmanager
def default_dtype_restored() -> Iterator[None]:
    before = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(before)
