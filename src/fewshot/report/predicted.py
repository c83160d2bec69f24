"""The page of `fewshot predict`: every query beside the support pictures most like it, in one HTML file. Layer 5."""

import base64
import io
from pathlib import Path
from typing import Any

from fewshot import __version__
from fewshot.decoding import decode, read
from fewshot.errors import InputError
from fewshot.own_pictures.prediction import Prediction, pictures_per_class
from fewshot.own_pictures.scores import advice, mixed_up
from fewshot.printable import printable
from fewshot.report.template import render

SHOWN = 300  # queries on a page, the least certain ones
SIDE = 144  # pixels of a thumbnail's longer side


def page(found: Prediction) -> str:
    """A file that needs nothing beside it, for light and dark screens, wide and narrow."""
    order = found.order()[:SHOWN]
    used = sorted({int(j) for i in order for j in found.near[i]})
    title = f"{len(found.query)} pictures in {len(found.support.names)} classes"
    return render(
        "predicted.html",
        title=title,
        headline=f"{title}{_accuracy(found)}",
        support={j: thumbnail(found.support.paths[j]) for j in used},
        cards=[_card(found, i) for i in order],
        left_out=len(found.query) - len(order),
        found=found,
        classes=_classes(found),
        advice=advice(found.findings, found.support.names),
        mixed_up=mixed_up(found.findings, found.support.names),
        version=__version__,
    )


def _accuracy(found: Prediction) -> str:
    """What the reader wants to know first: how many are right, or may be expected to be."""
    if found.accuracy:
        return f": {found.accuracy.value:.0f} % right"
    expected = found.findings.accuracy
    return f": {expected.value:.0f} % right may be expected" if expected else ""


def _card(found: Prediction, i: int) -> dict[str, Any]:
    names, best = found.support.names, found.best(i)
    return {
        "picture": thumbnail(found.query[i]),
        "name": found.name(i),
        "path": printable(found.query[i]),
        "label": found.label(i),
        "best": names[best[0]],
        "percent": [round(100 * float(found.probabilities[i][c])) for c in best],
        "runner_up": found.runner_up(i),
        "true": found.truth[i] if found.truth else None,
        "near": [
            (int(j), names[int(found.support.y[j])], printable(found.support.paths[int(j)].name)) for j in found.near[i]
        ],
    }


def _classes(found: Prediction) -> list[dict[str, Any]]:
    """A row for each class: its pictures, and how many of them are recognised without themselves."""
    numbers = pictures_per_class(found.support)
    return [
        {"name": name, "pictures": numbers[name], "recognised": found.findings.per_class.get(c)}
        for c, name in enumerate(found.support.names)
    ]


def thumbnail(path: Path) -> str:
    """A small JPEG as a data URI; empty where the file has gone meanwhile."""
    try:
        picture = decode(read(path), str(path))
    except InputError:
        return ""
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
