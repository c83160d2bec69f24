"""What an evaluation sets otherwise than its run, all of which must be able to act on trained weights. Layer 4."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fewshot import checkpoint
from fewshot.assemble import Config, make_algorithm
from fewshot.errors import FewshotError, InputError
from fewshot.identity import flatten, outside
from fewshot.sizes import largest

# Whole paths, each with all keys below it: what a test depends on.
TEST = (
    "run", "split", "checkpoint", "ways", "shots", "queries", "within_groups", "eval_seed", "precision", "dataset",
    "allow_overlap", "paper", "augment.support", "augment.support_copies", "evaluation.episodes", "evaluation.tasks",
    "evaluation.query_balance", "evaluation.episodes_file", "evaluation.test_split", "evaluation.ensemble",
)  # fmt: skip
MODEL = ("algorithm", "backbone")  # what these change is tried out
IDLE = ("algorithm.stream",)
SHOTS, QUERIES = 2, 3  # per class, of the episode on which that is tried


def changed(config: Config, own: Config) -> dict[str, Any]:
    """Path -> the run's own value, of the keys that an evaluation sets otherwise."""
    ours, theirs = flatten(config), flatten(own)
    return {key: theirs.get(key) for key in {**theirs, **ours} if ours.get(key) != theirs.get(key)}


def refuse_fixed(config: Config, own: Config, choices: Mapping[str, str | None]) -> None:
    """InputError for a key that only a training reads. choices: of groups that the evaluation chose anew."""
    acting = list(TEST)
    if config["evaluation"]["query_balance"] == "dirichlet":
        acting += ["evaluation.concentration", "evaluation.total_queries"]
    if choices.get("augment"):  # a whole group, whose training part is not used
        acting.append("augment")
    idle = () if choices.get("algorithm") else IDLE
    for key, value in changed(config, own).items():
        acts = _below(key, (*acting, *MODEL)) and not _below(key, idle)
        if not acts and not outside(key):
            raise InputError(
                f"{key}={flatten(config).get(key)} changes nothing in an evaluation: the run was trained with {value}; "
                "what a test depends on can be set: ways, shots, queries, split, eval_seed, checkpoint, dataset, "
                "evaluation.episodes, and keys of the algorithm that adapting uses"
            )


def refuse_idle(
    config: Config, own: Config, context: Mapping[str, Any], choices: Mapping[str, str | None], name: str
) -> None:
    """InputError for a key of the model that leaves its predictions as they are, given the weights.

    Each is tried beside the others, with the same weights (drawn, in float64: trained ones may fit a support set so
    well that further inner steps change no digit) on an episode of noise. An algorithm chosen anew comes with all keys
    of its YAML, and is tried as a whole. choices: as above; name: of the run's own algorithm.
    """
    algorithm, one_class = choices.get("algorithm"), config["algorithm"]["_target_"] == own["algorithm"]["_target_"]
    model = [key for key in changed(config, own) if _below(key, ("backbone",) if algorithm or not one_class else MODEL)]
    another = algorithm not in (None, name) and one_class  # fomaml, where maml was trained
    if not model and not another:
        return
    weights = _drawn_weights(own, context)
    predicted = _predictions(config, context, weights)
    if another and torch.equal(predicted, _predictions(own, context, weights)):
        raise InputError(f"algorithm={algorithm} changes no prediction of the trained weights of {name}; leave it out")
    for key in model:
        with_own = copy.deepcopy(dict(config))
        _copy_value(with_own, own, key.split("."))
        try:
            acts = not torch.equal(predicted, _predictions(with_own, context, weights))
        except FewshotError:  # it does not go with the other changes
            continue
        if not acts:
            raise InputError(
                f"{key}={flatten(config).get(key)} changes no prediction of the trained weights (the run had "
                f"{flatten(own).get(key)}); leave it out"
            )


def _drawn_weights(own: Config, context: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state of the run's model in which no part is zero."""
    state = make_algorithm(own, context, own["seed"]).state_dict()
    draw = torch.Generator().manual_seed(0)
    return {key: value + 0.01 * torch.rand(value.shape, generator=draw) if value.is_floating_point() else value
            for key, value in state.items()}  # fmt: skip


def _predictions(config: Config, context: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Tensor:
    """Logits [1, N*Q, N] on noise."""
    algorithm = make_algorithm(config, context, config["seed"])
    checkpoint.load_into(algorithm, weights)
    algorithm.double().eval()
    ways, draw = largest(config["ways"]), torch.Generator().manual_seed(0)

    def images(each: int) -> Tensor:
        return torch.rand(1, ways * each, *context["image_shape"], generator=draw, dtype=torch.float64)

    with torch.no_grad():
        labels = torch.arange(ways).repeat_interleave(SHOTS)[None]
        state = algorithm.adapt(images(SHOTS), labels, ways=ways)
        return algorithm.predict(state, images(QUERIES))


def _copy_value(target: dict[str, Any], source: Mapping[str, Any], path: list[str]) -> None:
    *above, last = path
    for key in above:
        target, source = target[key], source[key]
    if last in source:
        target[last] = source[last]
    else:
        del target[last]


def _below(key: str, paths: tuple[str, ...] | list[str]) -> bool:
    return any(key == path or key.startswith(f"{path}.") for path in paths)
