"""Sweeps: launchers on this machine, on SLURM and on Ray, and a search with Optuna. Layer 7.

sweep.json, the table and the run folders are the same for every launcher.
"""

from importlib.util import find_spec

from fewshot.errors import InputError


def needs(package: str, *, extra: str) -> None:
    """InputError where a package that a launcher needs is not installed."""
    if find_spec(package) is None:
        raise InputError(f"hydra/launcher={extra} needs {package}, which is not installed: pip install {package}")
