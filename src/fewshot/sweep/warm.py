"""What every job imports, imported once: in the process that jobs are forked from. Layer 7.

It makes no tensor, starts no thread of ours and never touches CUDA, so that a fork of it is as good as new.
"""

import signal

from fewshot.signals import CAUGHT

for signum in CAUGHT:  # it lives as long as the launcher, which alone decides what stops
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
