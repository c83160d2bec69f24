"""What an evaluation may set: all that can act on trained weights, and nothing else."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from fewshot.changes import refuse_fixed, refuse_idle
from fewshot.errors import InputError
from fewshot.run_folder import RunFolder

CONTEXT = {"image_shape": [1, 28, 28], "train_classes": 9, "normalization": None}


@pytest.fixture(scope="module")
def own(trained: Path) -> dict[str, Any]:
    """The configuration of a small MAML run."""
    return RunFolder(trained).config


def changed(own: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """keys: paths with two underscores for a dot."""
    config = copy.deepcopy(own)
    for path, value in keys.items():
        *above, last = path.split("__")
        node = config
        for key in above:
            node = node[key]
        node[last] = value
    return config


@pytest.mark.parametrize("keys", [
    {"seed": 1}, {"train_ways": 3}, {"train_shots": 3}, {"train_split": "val"}, {"normalize": "none"},
    {"trainer__steps": 9}, {"evaluation__val_split": "test"}, {"evaluation__val_episodes": 9}, {"init": "other"},
    {"algorithm__stream__tasks": 5}, {"augment__train": {"shift": {"pixels": 1}}}, {"evaluation__concentration": 5},
])  # fmt: skip
def test_a_training_key_is_refused(own: dict[str, Any], keys: dict[str, Any]) -> None:
    (path,) = (key.replace("__", ".") for key in keys)
    with pytest.raises(InputError, match=re.escape(path) + r".* changes nothing in an evaluation: the run was"):
        refuse_fixed(changed(own, **keys), own, {})


def test_what_a_test_depends_on_is_not(own: dict[str, Any]) -> None:
    config = changed(
        own,
        ways=3,
        shots=2,
        eval_seed=4,
        evaluation__episodes=9,
        evaluation__query_balance="dirichlet",
        evaluation__concentration=5,
        dataset__split="other",
        device="cpu",
        name="mine",
        run="here",
    )
    refuse_fixed(config, own, {})
    refuse_fixed(changed(own, augment__train={"shift": {"pixels": 1}}), own, {"augment": "shift"})  # a whole group


@pytest.mark.parametrize(("run", "key", "value"), [
    ({}, "algorithm__inner_lr", 0.1),
    ({}, "algorithm__eval_inner_steps", 0),
    ({}, "algorithm__norm_statistics", "support"),
    ({}, "backbone__norm_eps", 0.1),
    ({"algorithm__inner_rate": "per_layer_step"}, "algorithm__eval_inner_steps", 12),
])  # fmt: skip
def test_a_key_of_the_model_that_acts(own: dict[str, Any], run: dict[str, Any], key: str, value: Any) -> None:
    run = changed(own, **run)
    refuse_idle(changed(run, **{key: value}), run, CONTEXT, {}, "maml")


@pytest.mark.parametrize(("run", "key", "value"), [
    ({"algorithm__inner_rate": "per_parameter"}, "algorithm__inner_lr", 0.1),  # its rates are trained
    ({"algorithm__inner_rate": "per_layer_step"}, "algorithm__inner_lr", 0.1),
    ({}, "algorithm__first_order", True),
    ({}, "algorithm__inner_steps", 4),
    ({}, "algorithm__task_chunk", 1),
])  # fmt: skip
def test_a_key_of_the_model_that_does_not(own: dict[str, Any], run: dict[str, Any], key: str, value: Any) -> None:
    """Whatever is set beside it."""
    run = changed(own, **run)
    said = re.escape(f"{key.replace('__', '.')}={value} changes no prediction of the trained weights")
    with pytest.raises(InputError, match=said):
        refuse_idle(changed(run, **{key: value, "algorithm__eval_inner_steps": 2}), run, CONTEXT, {}, "maml")


def test_an_algorithm_chosen_anew_is_tried_as_a_whole(own: dict[str, Any]) -> None:
    """Keys of its YAML that only a training reads are no fault: the run may have been trained with others."""
    idle = changed(own, algorithm__stream__tasks=9, algorithm__first_order=True)
    for config, name in ((idle, "maml"), (changed(idle, algorithm__adapt="head"), "anil")):
        refuse_fixed(config, own, {"algorithm": name})
        refuse_idle(config, own, CONTEXT, {"algorithm": name}, "maml")
    said = "algorithm=fomaml changes no prediction of the trained weights of maml; leave it out"
    with pytest.raises(InputError, match=said):
        refuse_idle(idle, own, CONTEXT, {"algorithm": "fomaml"}, "maml")
