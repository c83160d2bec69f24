"""What takes the time of a few steps: a trace to look at and the ten largest costs. Layer 0."""

import json
import os
from pathlib import Path
from typing import Any

import torch

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise its library prints to stderr
SKIPPED, TRACED = 5, 5  # steps: the first ones warm up (and are captured, on CUDA), the next ones are traced
LARGEST = 10


class StepProfiler:
    """`step` is called after each step; after the traced ones `trace.json` and `costs.json` are in `folder`.

    steps: how many there will be; a run too short for SKIPPED leaves out as many as it can. trace.json opens in
    https://ui.perfetto.dev or chrome://tracing. The numbers of the run do not change, its timing does.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder = folder
        self.traced = min(TRACED, steps)
        self._skip = min(SKIPPED, steps - self.traced)
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        plan = torch.profiler.schedule(wait=0, warmup=1, active=self.traced, repeat=1)
        self._profile = torch.profiler.profile(activities=activities, schedule=plan, on_trace_ready=self._write)
        self._done = 0
        self._start_if_due()

    def step(self) -> None:
        """A step is done."""
        self._done += 1
        if self._skip < self._done <= self._skip + self.traced:
            self._profile.step()
        self._start_if_due()

    def close(self) -> None:
        """Write what was traced; the run may end earlier than planned."""
        if self._skip <= self._done < self._skip + self.traced:
            self._profile.stop()

    def _start_if_due(self) -> None:
        if self._done == self._skip:
            self._profile.start()
            self._profile.step()  # the profiler's own warm-up is over at once

    def _write(self, profile: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        profile.export_chrome_trace(str(self.folder / "trace.json"))
        costs = largest_costs(profile.key_averages(), self._done - self._skip)
        (self.folder / "costs.json").write_text(json.dumps(costs, indent=2))


def largest_costs(averages: Any, steps: int) -> list[dict[str, Any]]:
    """What took most time by itself, without what it called: kernels on a GPU, otherwise operations.

    Each as {"operation", "calls", "ms", "percent"}: per step, and of the time of all of them.
    """
    events = [event for event in averages if not event.key.startswith("ProfilerStep")]
    kernels = [event for event in events if event.device_type != torch.autograd.DeviceType.CPU]
    micros = {e.key: e.self_device_time_total for e in kernels} or {e.key: e.self_cpu_time_total for e in events}
    calls = {e.key: e.count for e in kernels or events}
    total = sum(micros.values()) or 1.0
    largest = sorted(micros, key=lambda key: -micros[key])[:LARGEST]
    return [{"operation": key, "calls": calls[key] / steps, "ms": micros[key] / steps / 1000,
             "percent": 100 * micros[key] / total} for key in largest]  # fmt: skip
