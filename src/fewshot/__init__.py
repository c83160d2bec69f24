"""fewshot: a config-driven experiment runner for few-shot meta-learning.

From Python: `train`, `load`, `evaluate`, `pretrained`, `Run` and `Classifier` (see `fewshot.interface`). They are
imported when they are first used: torch takes seconds.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Classifier", "Run", "__version__", "evaluate", "load", "pretrained", "train"]

if TYPE_CHECKING:
    from fewshot.interface import Classifier, Run, evaluate, load, pretrained, train


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fewshot' has no attribute '{name}'")
    from fewshot import interface

    return getattr(interface, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
