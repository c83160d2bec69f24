"""The properties of an algorithm that training, evaluation and prediction rely on.

Each function returns what there is to say besides, and raises `Fault` with what does not hold.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fewshot.algorithms.base import embed
from fewshot.episode import Batch, Episode, Minibatch
from fewshot.errors import InputError, first_line
from fewshot.testing.subject import (
    GENERATOR,
    TOLERANCE,
    Fault,
    Subject,
    default_dtype_restored,
    surroundings,
)  # fmt: skip


def runs(subject: Subject) -> str:
    """adapt and predict give finite logits [T, N*Q, N]; in float32 where float64 is not possible."""
    try:
        subject.logits(subject.episode())
        return ""
    except Fault:
        raise
    except Exception as error:
        subject.dtype = torch.float32
        subject.logits(subject.episode())
        return f"compared in float32, since float64 raises {type(error).__name__}: {first_line(error)}"


def tasks_apart(subject: Subject) -> None:
    """Tasks one by one give what they give together."""
    episode = subject.episode()
    together = subject.logits(episode)
    for t in range(subject.tasks):
        alone = subject.logits(Episode(*[part[t : t + 1] for part in episode]))
        subject.same(alone[0], together[t], "the prediction for a task depends on the other tasks of its batch")


def query_order(subject: Subject) -> None:
    """Queries in another order get the same predictions, in that order."""
    episode = subject.episode()
    order = torch.randperm(episode.query_y.shape[1], generator=torch.Generator().manual_seed(1)).to(subject.device)
    shuffled = episode._replace(query_x=episode.query_x[:, order], query_y=episode.query_y[:, order])
    fault = "predictions depend on the order of the queries, which tells their classes"
    subject.same(subject.logits(shuffled), subject.logits(episode)[:, order], fault)


def label_order(subject: Subject) -> str:
    """Classes under other labels get the same logits, in other columns."""
    if not subject.given.interchangeable_labels:
        return "not asked: the learned head has a row of its own for each label"
    episode = subject.episode()
    order = torch.arange(subject.ways, device=subject.device).roll(1)
    support_x = episode.support_x.unflatten(1, (subject.ways, -1))[:, order].flatten(1, 2)
    swapped = subject.logits(episode._replace(support_x=support_x))
    fault = "which label a class gets changes its predictions; set interchangeable_labels=False where that is meant"
    subject.same(swapped, subject.logits(episode)[..., order], fault)
    return ""


def transductive(subject: Subject) -> str:
    """Where `transductive` is false, a query alone gets the prediction that it gets among others."""
    algorithm, episode = subject.fresh(), subject.episode()
    if algorithm.transductive:
        return "stated; queries are judged together"
    together = subject.logits(episode, algorithm)
    with torch.no_grad():
        state = algorithm.adapt(episode.support_x, episode.support_y, ways=episode.ways)
        alone = [algorithm.predict(state, x) for x in episode.query_x.split(1, dim=1)]
    fault = "transductive=False, but the prediction for a query depends on the other queries"
    subject.same(torch.cat(alone, 1), together, fault)
    return ""


def no_memory(subject: Subject) -> None:
    """What came before changes nothing: adapt and predict keep all they know in the state."""
    algorithm, one, other = subject.fresh(), subject.episode(), subject.episode(seed=1)
    first = subject.logits(one, algorithm)
    subject.logits(other, algorithm)
    fault = "the same episode gets other predictions after another one: something is kept between calls"
    subject.same(subject.logits(one, algorithm), first, fault)
    with torch.no_grad():
        state = algorithm.adapt(one.support_x, one.support_y, ways=one.ways)
        algorithm.adapt(other.support_x, other.support_y, ways=other.ways)
        late = algorithm.predict(state, one.query_x)
    subject.same(late, first, "predict goes by the last support set, not by the state that it is given")


def no_traces(subject: Subject) -> None:
    """Adapting and predicting leave the process, the model and what they were given as they were."""
    algorithm, episode = subject.fresh(), subject.episode()
    given = [part.clone() for part in episode]
    torch.rand(1)  # from here on, seeding anew shows
    before, weights = surroundings(algorithm), copy.deepcopy(algorithm.state_dict())
    with torch.no_grad(), default_dtype_restored():
        state = algorithm.adapt(episode.support_x, episode.support_y, ways=episode.ways)
        algorithm.predict(state, episode.query_x)
        grad, after = torch.is_grad_enabled(), surroundings(algorithm)
    changed = [what for what, value in before.items() if after[what] != value] + ["the gradient mode"] * grad
    changed += [name for name, value in algorithm.state_dict().items() if not torch.equal(value, weights[name])]
    changed += [name for name, a, b in zip(episode._fields, episode, given, strict=True) if not torch.equal(a, b)]
    if changed:
        raise Fault(f"adapt and predict in evaluation mode change {', '.join(changed)}")


def state_dict(subject: Subject) -> None:
    """A fresh copy with the trained one's state_dict predicts what the trained one does."""
    trained, fresh, episode = subject.trained(), subject.fresh(), subject.episode()
    fresh.load_state_dict(trained.state_dict())
    fault = "a copy with the state_dict of a trained one predicts otherwise: something learned is not in it"
    subject.same(subject.logits(episode, fresh), subject.logits(episode, trained), fault)


def other_ways(subject: Subject) -> str:
    """Runs at other numbers of ways, or refuses them in one line."""
    refused = [_refusal(subject, ways=ways) for ways in sorted({2, subject.ways + 1} - {subject.ways})]
    return next((f"refused: {line}" for line in refused if line), "")


def other_shots(subject: Subject) -> str:
    """Runs at other numbers of shots and queries, or refuses them in one line."""
    sizes = [{"shots": 1, "queries": 1}, {"shots": subject.shots + 2, "queries": subject.queries + 1}]
    return next((f"refused: {line}" for size in sizes if (line := _refusal(subject, **size))), "")


def inner_steps(subject: Subject) -> str:
    """`adaptation` ends where `adapt` does."""
    algorithm, episode = subject.fresh(), subject.episode()
    with torch.no_grad():
        states = list(algorithm.adaptation(episode.support_x, episode.support_y, ways=episode.ways))
        last = algorithm.predict(states[-1], episode.query_x)
    subject.same(last, subject.logits(episode, algorithm), "the last state of adaptation is not that of adapt")
    return f"{len(states) - 1} inner steps" if len(states) > 1 else ""


def training(subject: Subject) -> None:
    """A training step, with dropout and all else that acts in it, runs; with the same seed it is the same."""
    losses = []
    for _ in range(2):
        algorithm = subject.fresh().train()
        before = {k: v for k, v in surroundings(algorithm).items() if k != GENERATOR}
        out = subject.step(algorithm, subject.batch())
        out.loss.backward()
        if changed := [what for what, value in surroundings(algorithm).items() if before.get(what, value) != value]:
            raise Fault(f"a training step changes {', '.join(changed)}")
        losses.append(out.loss.detach())
    subject.same(losses[1], losses[0], "two training steps with the same weights, batch and seed differ")
    subject.logits(subject.episode(), subject.trained())


def gradient(subject: Subject) -> None:
    """Every parameter that is to be learned gets a gradient, and no part of the model gets only zeros."""
    algorithm = subject.fresh().train()
    for seed in range(2):
        subject.step(algorithm, subject.batch(seed)).loss.backward()
    learned = {name: p for name, p in algorithm.named_parameters() if p.requires_grad}
    if missing := [name for name, p in learned.items() if p.grad is None]:
        raise Fault(f"the gradient of the loss does not reach {', '.join(missing[:5])}{' ...' * (len(missing) > 5)}")
    for part in {name.split(".")[0] for name in learned}:
        if not any(p.grad.any() for name, p in learned.items() if p.grad is not None and name.split(".")[0] == part):
            raise Fault(f"the gradient of the loss by all of {part} is 0")


def gradient_apart(subject: Subject) -> None:
    """The gradient of a batch is the mean over its tasks, or images: processes share a batch. Batch norm aside."""
    batch = subject.batch()
    size = len(batch.targets) // 2 if isinstance(batch, Minibatch) else 1
    parts = [type(batch)(*piece) for piece in zip(*[t.split(size) for t in batch], strict=True)]
    _mean_of_parts(subject, batch, parts, "the gradient of a batch is not the mean of its parts'")


def unequal_tasks(subject: Subject) -> str:
    """Where `unequal_tasks` is true, the padding of a smaller task changes nothing. Batch norm aside."""
    if not subject.given.unequal_tasks:
        return "not offered: the tasks of a step have one size, or it is trained on no tasks"
    batch = subject.unequal()
    fault = "unequal_tasks=True, but the padding of a smaller task changes the gradient"
    _mean_of_parts(subject, batch, list(batch.unpadded()), fault)
    return ""


def features(subject: Subject) -> str:
    """Where `fixed_features` is true, embeddings in the place of images give the same predictions."""
    algorithm, episode = subject.fresh(), subject.episode()
    if not algorithm.fixed_features:
        return "not offered: images are embedded anew for each task"
    backbone: Any = algorithm.backbone
    with torch.no_grad():
        support, query = (embed(backbone, x) for x in (episode.support_x, episode.query_x))
        alone = torch.cat([embed(backbone, x) for x in episode.query_x.split(1, dim=1)], 1)
    subject.same(alone, query, "fixed_features=True, but the embedding of an image depends on the other images")
    on_features = subject.logits(episode._replace(support_x=support, query_x=query), algorithm.on_features())
    subject.same(on_features, subject.logits(episode, algorithm), "on features, predictions are others than on images")
    return ""


def _mean_of_parts(subject: Subject, batch: Batch, parts: Sequence[Batch], fault: str) -> None:
    """The gradient of a batch, and its loss, are the means of its parts'."""

    def of(batch: Batch) -> Tensor:
        algorithm = subject.fresh()  # each process starts from the same state
        algorithm.training = True  # of its parts only this: no dropout, and batch norm as it is at test
        learned = [p for p in algorithm.parameters() if p.requires_grad]
        loss = subject.step(algorithm, batch).loss
        found = torch.autograd.grad(loss, learned, allow_unused=True)
        gradient = [(p * 0 if g is None else g).flatten() for p, g in zip(learned, found, strict=True)]
        return torch.cat([loss.detach()[None], *gradient])

    whole, mean = of(batch), torch.stack([of(part) for part in parts]).mean(0)
    difference = float((whole - mean).norm() / mean.norm().clamp(min=1e-30))
    if not difference <= TOLERANCE[subject.dtype]:
        raise Fault(f"{fault} (differs by {difference:.1e})")


def _refusal(subject: Subject, **sizes: int) -> str:
    """The line in which these sizes are refused; empty where they are served."""
    try:
        subject.logits(subject.episode(**sizes))
        return ""
    except InputError as error:
        return first_line(error)
    except Fault:
        raise
    except Exception as error:
        asked = ", ".join(f"{key}={value}" for key, value in sizes.items())
        raise Fault(f"{asked}: {type(error).__name__}: {first_line(error)}; serve it or raise InputError") from error


PROPERTIES: tuple[Callable[[Subject], str | None], ...] = (
    runs, tasks_apart, query_order, label_order, transductive, no_memory, no_traces, state_dict, other_ways,
    other_shots, inner_steps, training, gradient, gradient_apart, unequal_tasks, features,
)  # fmt: skip
