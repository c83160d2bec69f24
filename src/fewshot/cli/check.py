"""`fewshot check`: machine, data, the meta-gradient of the configured model, and its algorithm's contract. Layer 6."""

import os
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from fewshot.cli.compose import run_hydra
from fewshot.cli.job import plain
from fewshot.sizes import largest

if TYPE_CHECKING:
    from fewshot.datasets.base import ImageSet
    from fewshot.engine.machine import Machine

TASKS = 3  # tasks: compared one by one with all at once


def main(argv: list[str]) -> int:
    return run_hydra("config", ["hydra/launcher=basic", *argv], job)  # a check leaves no run folder


def job(cfg: DictConfig) -> int:
    """Prints one line per check; exit code 1 where one fails."""
    import torch

    from fewshot import __version__, assemble
    from fewshot.engine import runtime
    from fewshot.engine.machine import Machine

    config = plain(cfg)
    machine = Machine.start(config["device"], config["threads"])
    print(f"machine   {runtime.describe(machine.device)}, {torch.get_num_threads()} threads of {os.cpu_count()} cores")
    print(f"packages  fewshot {__version__}, torch {torch.__version__}")
    allocator = "kept" if runtime.keep_freed_memory() else "system's (not glibc, or FEWSHOT_ALLOCATOR=system)"
    print(f"allocator freed memory is {allocator}")
    images = assemble.load_images(config)
    splits = ", ".join(f"{name} {len(ids)}" for name, ids in images.splits.items())
    shape = "x".join(map(str, images.image_shape))
    print(
        f"data      {images.name}: {len(images.class_names)} classes ({splits}), "
        f"{int(images.offsets[-1])} images {shape}"
    )
    context = assemble.data_context(config, images)
    ok = check_gradient(config, context)
    return 0 if check_contract(config, context, images, machine) and ok else 1


def check_contract(
    config: dict[str, Any], context: dict[str, Any], images: "ImageSet", machine: "Machine"
) -> bool:  # fmt: skip
    """What every algorithm promises (`fewshot.testing`), one line for each property; and one where a training of it
    would be refused."""
    from fewshot import assemble
    from fewshot.errors import InputError
    from fewshot.testing import check_algorithm

    try:
        algorithm = assemble.make_algorithm(config, context, config["seed"])
        assemble.check_storable(algorithm)
        assemble.make_trainer(config).optimizer_of(algorithm)
        assemble.training_stream(config, algorithm, images, machine)
        for split in ("val_split", "test_split"):
            assemble.episode_sampler(config, images, config["evaluation"][split], machine.device)
    except InputError as error:
        print(f"contract  FAILED: {error}")
        return False
    found = check_algorithm(
        algorithm, image_shape=context["image_shape"], ways=largest(config["train_ways"]), shots=1, queries=2, tasks=2,
        train_classes=context["train_classes"],
    )  # fmt: skip
    for finding in found:
        print(f"contract  {finding}")
    return all(finding.ok for finding in found)


def check_gradient(config: dict[str, Any], context: dict[str, Any]) -> bool:
    """The vmapped meta-gradient against a loop over tasks; names the layers at fault."""
    import torch

    from fewshot import assemble, gradcheck
    from fewshot.algorithms.maml import MAML
    from fewshot.ops import norm

    backbone = assemble.make_backbone(config, context, config["seed"])
    if tracking := norm.tracking(backbone):
        print(f"gradient  FAILED: {_layers(tracking)} of torch.nn: running statistics cannot be kept per task")
        norm.stop_tracking(backbone)
        maml = gradcheck.as_maml(backbone)
    else:
        algorithm = assemble.make_algorithm(config, context, config["seed"])
        as_it_is = isinstance(algorithm, MAML) and type(algorithm).outer_loss is MAML.outer_loss  # the loop's
        as_it_is = as_it_is and algorithm.network.norm_statistics == "batch"  # type: ignore[union-attr]
        maml = algorithm.double() if as_it_is else gradcheck.as_maml(backbone)  # type: ignore[assignment]
    batch = gradcheck.random_episode(maml, tuple(context["image_shape"]), TASKS)
    found = gradcheck.meta_gradient_differences(maml, batch)
    name, worst = max(found.items(), key=lambda item: item[1])
    order = "first" if maml.first_order else "second"
    measured = f"{order} order, {TASKS} tasks at once against one by one in float64: {worst:.1e}"
    if worst <= gradcheck.TOLERANCE and not tracking:
        print(f"gradient  ok: largest difference of a parameter, {measured} (allowed {gradcheck.TOLERANCE:.0e})")
        return True
    start = "         " if tracking else "gradient "
    print(f"{start} FAILED: {measured} at {name} (allowed {gradcheck.TOLERANCE:.0e})")
    with maml.network.statistics(adapting=True):
        faults = gradcheck.faulty_layers(maml.backbone, batch.support_x[0].to(torch.float64))
    for fault in faults:
        print(f"          layer '{fault.layer}' ({fault.kind}) is at fault: {fault.difference:.1e} on its own")
    if faults or tracking:
        print("          replace them: fewshot.ops.norm.convert(net), or the layers of fewshot.ops.norm")
    return False


def _layers(named: dict[str, Any]) -> str:
    return ", ".join(f"layer '{name}' ({type(m).__name__})" for name, m in named.items())
