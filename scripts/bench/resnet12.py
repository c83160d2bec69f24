"""ResNet-12's training step with its data: ours against a plain PyTorch loop with DataLoader and torchvision.

    python scripts/bench/resnet12.py [--quick] [--json docs/results/bench_resnet12.json] [--device cuda]

A classifier of 64 classes, batches of 64 images of 3x32x32 pixels, random crop with 4 pixels of padding, colour jitter,
flip, normalisation, SGD with momentum and weight decay: what RFS trains on CIFAR-FS. 38 400 images of noise in memory
on both sides; the same network, 64-160-320-640 with batch norm, LeakyReLU and max-pooling, without dropout.

    plain   torch.nn layers in NCHW float32; torchvision.transforms of each image in a DataLoader with as many workers
            as cores (its row `all`), or one batch that lies there already (row `step`)
    ours    what `fewshot train algorithm=logistic_regression backbone=resnet12 augment=cifar` builds: channels_last;
            on CUDA bf16 and a CUDA graph

Columns: plain / ours is the ratio of times; images per second of both sides; ms per step. Times of `all` are means over
all steps after the first ones, which start the workers; `others %` is there of our side alone, as workers are others.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from measuring import Load, Row, alone, arguments, measure, report, timed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

CLASSES, PER_CLASS, SIDE, BATCH = 64, 600, 32, 64
WIDTHS = (64, 160, 320, 640)
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
WARM = 5  # steps


class Block(nn.Module):
    """Lee et al. 2019, arXiv:1904.03758, in torch.nn's layers."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, inputs in enumerate((channels, width, width)):
            layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.LeakyReLU(0.1)] if i < 2 else []
        self.body = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.leaky_relu(self.body(x) + self.shortcut(x), 0.1), 2)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Noise that is changed as torchvision does it, image by image."""

    def __init__(self, count: int) -> None:
        from torchvision import transforms

        self.images = torch.randint(0, 256, (count, SIDE, SIDE, 3), dtype=torch.uint8).numpy()
        self.transform = transforms.Compose([
            transforms.ToPILImage(), transforms.RandomCrop(SIDE, padding=4), transforms.ColorJitter(0.4, 0.4, 0.4),
            transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(MEAN, STD),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.images[i]), i * CLASSES // len(self.images)


def plain_step(widths: Sequence[int], device: str) -> Callable[[Tensor, Tensor], None]:
    """One update on images and labels."""
    blocks = [Block(*pair) for pair in zip((3, *widths[:3]), widths, strict=True)]
    net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[3], CLASSES)).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

    def step(x: Tensor, y: Tensor) -> None:
        loss = F.cross_entropy(net(x.to(device, non_blocking=True)), y.to(device, non_blocking=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def endless(data: Pictures, workers: int, device: str) -> Iterator[Any]:
    pinned = device.startswith("cuda")
    loader = DataLoader(data, BATCH, shuffle=True, drop_last=True, num_workers=workers, pin_memory=pinned)
    while True:
        yield from loader


def plain(what: str, widths: Sequence[int], device: str, quick: bool) -> tuple[float, float]:
    """Milliseconds of a step, and what others took of the cores."""
    step = plain_step(widths, device)
    if what == "step":
        x, y = torch.randn(BATCH, 3, SIDE, SIDE, device=device), torch.arange(BATCH, device=device) % CLASSES
        found = measure(lambda: step(x, y), device, quick=quick)
        return found.ms, found.others
    batches = endless(
        Pictures(BATCH * 2 if quick else CLASSES * PER_CLASS), 0 if quick else len(os.sched_getaffinity(0)), device
    )
    return several(lambda: step(*next(batches)), device, quick)


def ours(what: str, widths: Sequence[int], device: str, quick: bool) -> tuple[float, float]:
    """The same of ours."""
    from ours import built, noise_images

    from fewshot.assemble import make_augment
    from fewshot.outer_step import DrawnStep
    from fewshot.streams import stream

    words = [
        "algorithm=logistic_regression", f"algorithm.stream.batch_size={BATCH}", "backbone=resnet12", "augment=cifar",
        "backbone.dropout=0", "backbone.dropblock=0", f"backbone.widths={list(widths)}", "trainer/optimizer=sgd",
        "trainer.optimizer.lr=0.05", "trainer.optimizer.weight_decay=0.0005", f"device={device}",
    ]  # fmt: skip
    made = built(words, size=SIDE, channels=3, classes=CLASSES)
    images = noise_images(CLASSES, 2 if quick else PER_CLASS, SIDE, channels=3).on(made.machine.device)
    batches = stream(
        made.algorithm.stream, images, "train", seed=0, within_groups=False, device=made.machine.device,
        transforms=make_augment(made.config).train.values(),
    )  # fmt: skip
    numbers, with_data = iter(range(10**9)), DrawnStep(made.step, batches)
    if what == "step":
        batch = batches.batch(0)
        found = measure(lambda: made.step(batch, step=next(numbers), rate=1.0), device, quick=quick)
        return found.ms, found.others

    def step() -> None:
        with_data(step=next(numbers), rate=1.0)

    return several(step, device, quick)


def several(step: Callable[[], None], device: str, quick: bool) -> tuple[float, float]:
    """The mean over some seconds of steps: workers run ahead, so that a single step says little."""
    for _ in range(1 if quick else WARM):
        step()
    once = timed(step, device)
    count = 1 if quick else max(5, round((5 if device.startswith("cuda") else 60) / once))
    load = Load()
    seconds = timed(lambda: [step() for _ in range(count)], device)
    return 1e3 * seconds / count, load.others()


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    widths = (4, 4, 4, 4) if args.quick else WIDTHS
    rows: list[Row] = []
    for what in ("step", "all"):
        (theirs, busy), (own, busier) = (
            alone(args.quick, side, what, widths, args.device, args.quick) for side in (plain, ours)
        )
        rows.append({
            "plain / ours": theirs / own, "what": what, "ours images/s": 1e3 * BATCH / own,
            "plain images/s": 1e3 * BATCH / theirs, "ours ms": own, "plain ms": theirs,
            "others %": max(busy, busier) if what == "step" else busier,
        })  # fmt: skip
        print(rows[-1], flush=True)
    report("resnet12", args, rows)


if __name__ == "__main__":
    main()
