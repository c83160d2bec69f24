"""The CPU cores that this process may use. Layer 0; no torch."""

import os


def usable() -> int:
    """How many there are; where the system does not tell which ones (macOS, Windows), those of the machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
