"""Sweeps on SLURM and Ray: existing engines start the jobs; sweep.json, table and run folders are as everywhere.

Layer 5; submitit and ray are extras, and imported when a sweep is launched.
"""

from importlib.util import find_spec

from fewshot.errors import InputError


def needs(package: str, *, extra: str) -> None:
    """InputError where an engine is not installed."""
    if find_spec(package) is None:
        raise InputError(f"hydra/launcher={extra} needs {package}, which is not installed: pip install {package}")
