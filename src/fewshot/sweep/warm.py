"""Imports what every job needs, once, in the process that jobs are forked from. Layer 7.

It makes no tensor, starts no thread and never touches CUDA, so that a forked process is like a fresh one.
"""

import signal

from fewshot.signals import CAUGHT

for signum in CAUGHT:  # only the launcher reacts to signals; this process lives as long as the launcher
    signal.signal(signum, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, CAUGHT)

import fewshot.algorithms.maml  # noqa: E402
import fewshot.algorithms.protonet  # noqa: E402
import fewshot.backbones.conv4  # noqa: E402
import fewshot.cli.evaluate  # noqa: E402
import fewshot.cli.show  # noqa: E402
import fewshot.cli.train  # noqa: E402
import fewshot.datasets.glyphs  # noqa: E402
import fewshot.experiment  # noqa: E402, F401
