"""A fitted classifier as one file that runs without fewshot: ONNX, or torch.export's .pt2. Layer 4.

    pictures [B, H, W, C] uint8  ->  probabilities [B, N] float32,    B free

Normalisation, views, the head and the temperature are inside. How a picture becomes H x W pixels is the reader's part;
the file's metadata say it, each value as JSON:
    classes         N names
    size, mode      [H, W]; RGB or L, as Pillow calls them
    resize, fit     the square before its middle [H, W] is cut out; squash: the whole picture, crop: its middle square
    interpolation   bilinear, bicubic, nearest or lanczos, as Pillow calls them
    mean, std       that the pictures, in [0, 1], are normalised by (inside)
    temperature     that the scores are divided by (inside)
"""

import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fewshot.errors import FewshotError, InputError, first_line

ENDINGS = (".onnx", ".pt2")
LARGEST = 1e-3  # difference of probabilities that rounding can make


class Exported(nn.Module):
    """scores: [B, C, H, W] float32 in [0, 1] -> [B, N]. inverted: 1 is ink. scale: one over the temperature."""

    def __init__(self, scores: nn.Module, *, scale: float, inverted: bool) -> None:
        super().__init__()
        self.scores, self.scale, self.inverted = scores, scale, inverted

    def forward(self, pictures: Tensor) -> Tensor:
        x = pictures.permute(0, 3, 1, 2).float() / 255  # [B, C, H, W]
        return (self.scale * self.scores(1 - x if self.inverted else x)).softmax(-1).float()


class Checked(NamedTuple):
    """What running the file on pictures has shown."""

    difference: float  # largest, of a probability
    seconds: float  # a picture, one at a time
    megabytes: float


def check_ending(path: Path) -> None:
    """InputError for a file of another kind, or where a package for it is missing."""
    if path.suffix not in ENDINGS:
        raise InputError(f"out={path} ends in none of {', '.join(ENDINGS)}")
    if path.suffix == ".onnx":
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ModuleNotFoundError as error:
            raise InputError(f"out={path} needs the package {error.name}: pip install 'fewshot[onnx]'") from error


def write(path: Path, model: Exported, example: np.ndarray, metadata: Mapping[str, Any]) -> None:
    """The file. example [2, H, W, C] uint8. FewshotError where the model has parts that no file can hold."""
    batch = {"pictures": {0: torch.export.Dim("batch", min=1)}}
    texts = {key: json.dumps(value) for key, value in metadata.items()}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            found = torch.export.export(model.eval(), (torch.from_numpy(example),), dynamic_shapes=batch, strict=False)
            if path.suffix == ".pt2":
                torch.export.save(found, path, extra_files=texts)
                return
            names: dict[str, Any] = {"input_names": ["pictures"], "output_names": ["probabilities"]}
            program = torch.onnx.export(found, dynamo=True, verbose=False, **names)
            assert program is not None
            program.model.metadata_props.update(texts)
            program.save(path)
    except (RuntimeError, AssertionError, NotImplementedError, torch.onnx.OnnxExporterError) as error:
        raise FewshotError(f"{path.name} cannot be written: {first_line(error)}") from error


def checked(path: Path, pictures: np.ndarray, expected: np.ndarray) -> Checked:
    """Run the file: pictures [M, H, W, C] uint8, expected probabilities [M, N].

    FewshotError where it gives others.
    """
    run = _onnx(path) if path.suffix == ".onnx" else _pt2(path)
    found = [run(pictures[:2])]  # two together: the batch is free
    started = time.perf_counter()
    found += [run(pictures[i : i + 1]) for i in range(2, len(pictures))]
    seconds = (time.perf_counter() - started) / max(1, len(pictures) - 2)
    difference = float(np.abs(np.concatenate(found) - expected).max())
    if not difference <= LARGEST:
        raise FewshotError(f"{path.name} gives other probabilities than fewshot, by up to {difference:.2g}")
    return Checked(difference, seconds, path.stat().st_size / 1e6)


def _onnx(path: Path) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return lambda pictures: session.run(None, {"pictures": pictures})[0]


def _pt2(path: Path) -> Any:
    model = torch.export.load(path).module()

    def run(pictures: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(pictures)).numpy()

    return run
