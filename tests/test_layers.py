"""The design's layers, enforced: a file imports from lower ones only, and heavy packages late."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "fewshot"
LAYERS = (
    ("errors", "printable", "schema", "signature"),  # design.md's layer 0 from here ...
    ("sizes",),
    ("episode", "metrics", "schedules", "signals", "ops", "text"),
    ("engine",),  # ... to here
    ("transforms", "decoding", "folders", "records"),
    ("pictures", "copies", "stored_state"),
    ("datasets", "backbones", "checkpoint", "construct", "optimizer", "metrics_file", "version_0_1"),
    ("source", "class_groups"),
    ("sampler", "algorithms", "loggers", "run_folder"),
    ("held_run", "streams", "embedded", "identity", "episode_file"),
    ("ensemble", "outer_step"),
    ("training_state",),
    ("trainer", "evaluation", "shown", "gradcheck", "testing", "resume", "leaks"),
    ("assemble",),  # the experiment layer from here ...
    ("trained", "final_test", "classifier", "changes"),
    ("plan", "result", "own_pictures"),
    ("prepare",),
    ("experiment",),  # ... to here
    ("report",),
    ("cli",),
    ("sweep", "interface"),
    ("__main__",),
)
LAYER = {unit: layer for layer, units in enumerate(LAYERS) for unit in units}
LATE = ("matplotlib", "jinja2", "wandb", "torchvision", "rich", "tensorboard")  # 0.2 to 1.2 s each
FILES = sorted(SOURCE.rglob("*.py"))


def unit_of(module: str) -> str | None:
    """`fewshot.ops.norm` -> `ops`; None for the package itself (its version) and for other packages."""
    parts = module.split(".")
    return parts[1] if parts[0] == "fewshot" and len(parts) > 1 else None


def imported(node: ast.stmt) -> list[str]:
    """Modules that one statement imports; `from fewshot import sampler` is one of `fewshot.sampler`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative import"
        if node.module == "fewshot":
            return [f"fewshot.{a.name}" for a in node.names if a.name != "__version__"]
        return [node.module or ""]
    return []


def statements(tree: ast.AST, *, late: bool) -> Iterator[ast.stmt]:
    """All statements, or without the late ones: those in functions and those for the type checker."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.stmt):
            yield node
        typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if late or not (typing or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from statements(node, late=late)


def imports(source: str, *, late: bool = True) -> set[str]:
    return {module for node in statements(ast.parse(source), late=late) for module in imported(node)}


def faults(path: Path, source: str) -> list[str]:
    """What a file of src/fewshot imports against the rules."""
    name = path.parts[0].removesuffix(".py")
    found = [m for m in imports(source) if (u := unit_of(m)) is not None and u != name and LAYER[u] >= LAYER[name]]
    roots = {m.split(".")[0]: m for m in imports(source)}
    if name not in ("cli", "sweep"):
        found += [m for root, m in roots.items() if root in ("hydra", "omegaconf")]
    at_once = {m.split(".")[0] for m in imports(source, late=False)}
    allowed = {"rich"} if path == Path("cli/show.py") else set()
    return found + [root for root in LATE if root in at_once - allowed]


def test_every_unit_has_its_layer() -> None:
    units = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert units == set(LAYER)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_imports_from_lower_layers_only(path: Path) -> None:
    relative = path.relative_to(SOURCE)
    if relative == Path("__init__.py"):
        assert imports(path.read_text()) <= {"typing", "fewshot.interface"}
        assert imports(path.read_text(), late=False) == {"typing"}
    else:
        assert faults(relative, path.read_text()) == []


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("ops/norm.py", "from fewshot.errors import InputError", []),
        ("ops/norm.py", "from fewshot.episode import Episode", ["fewshot.episode"]),
        ("sampler.py", "from fewshot.datasets.base import ImageSet", []),
        ("sampler.py", "from fewshot.trainer import Trainer", ["fewshot.trainer"]),
        ("sampler.py", "from fewshot import trainer, checkpoint", ["fewshot.trainer"]),
        ("sampler.py", "def f():\n    if x:\n        import fewshot.cli.build", ["fewshot.cli.build"]),
        ("datasets/omniglot.py", "from fewshot.datasets.base import ImageSet", []),
        ("datasets/omniglot.py", "import fewshot.checkpoint", ["fewshot.checkpoint"]),
        ("trainer.py", "from omegaconf import DictConfig", ["omegaconf"]),
        ("cli/build.py", "from omegaconf import DictConfig\nimport hydra.utils", []),
        ("report/pages.py", "def f():\n    import matplotlib.pyplot", []),
        ("report/pages.py", "try:\n    import matplotlib.pyplot\nexcept ImportError:\n    pass", ["matplotlib"]),
        ("loggers/wandb.py", "if TYPE_CHECKING:\n    import wandb", []),
        ("cli/show.py", "from rich.table import Table", []),
        ("cli/data.py", "from rich.table import Table", ["rich"]),
    ],
)
def test_the_rules_see_faults(path: str, source: str, expected: list[str]) -> None:
    assert faults(Path(path), source) == expected
