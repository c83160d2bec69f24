"""Weights & Biases: a mirror of metrics.jsonl, online where there is a key, else offline. Layer 2.

A thread of its own imports and drives wandb: import and start take 1.5 to 3 s, for which training does
not wait. Rows wait in a queue. If something goes wrong there is one warning and no mirror; the run continues.
"""

import contextlib
import functools
import os
import queue
import re
import shlex
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot.errors import check_choice, first_line
from fewshot.loggers.base import RunInfo
from fewshot.loggers.wandb_mode import MODES, choose_mode
from fewshot.metrics_file import MetricsFile

if TYPE_CHECKING:
    import wandb


MAX_TAG, MAX_NAME = 64, 128  # characters; with longer ones W&B takes nothing of the run


@dataclass(frozen=True, kw_only=True)
class _End:
    """The last thing in the queue."""

    summary: Mapping[str, Any]
    status: str
    inner_steps: Sequence[Mapping[str, float]] = ()  # accuracy of the test after 0, 1, ... of them
    pictures: Sequence[Path] = ()  # of the run's figures/


class Wandb:
    """Config, metric rows, result and pictures of a run on https://wandb.ai, or in `<run folder>/wandb` until synced.

    mode: auto (online with a key, else offline; WANDB_MODE and `wandb offline` are respected), or
        online, offline, disabled. Never asks for a key.
    init_timeout: seconds until an unreachable server means offline.
    finish_timeout: seconds that the end of the run may wait for the upload.
    """

    def __init__(
        self,
        *,
        project: str = "fewshot",
        entity: str | None = None,
        mode: str = "auto",
        tags: Sequence[str] = (),
        init_timeout: float = 10.0,
        finish_timeout: float = 15.0,
    ) -> None:
        check_choice("logger.wandb.mode", mode, MODES)
        self.project = project
        self.entity = entity
        self.mode = mode
        self.tags = tuple(tags)
        self.init_timeout = init_timeout
        self.finish_timeout = finish_timeout
        self._queue: queue.SimpleQueue[dict[str, Any] | _End] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._warned = False
        self._unsynced: Path | None = None  # where the offline record is
        self._figures: Path | None = None

    def start(self, run: RunInfo) -> None:
        self._figures = run.folder / "figures"
        self._thread = threading.Thread(target=self._work, args=(run,), name="wandb", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._thread is not None and self._thread.is_alive():
            self._queue.put({"step": step, **metrics})

    def progress(self, step: int) -> None:
        """Nothing to do between two rows."""

    def trained(self, step: int) -> None:
        """Nothing to do before the test."""

    def finish(self, result: Mapping[str, Any] | None, status: str) -> None:
        if self._thread is None or self._figures is None:
            return
        found = {"best" if key == "val" else key: value for key, value in (result or {}).items()}
        # W&B itself keeps the last row's `val/accuracy` under that name
        steps = ((result or {}).get("test") or {}).get("inner_steps") or ()
        self._queue.put(_End(
            summary={**flatten(found), "status": status}, status=status, inner_steps=steps,
            pictures=sorted(self._figures.glob("*.png")) if status == "finished" else (),
        ))  # fmt: skip
        limit = self.init_timeout + self.finish_timeout
        self._thread.join(limit)
        if self._thread.is_alive():
            self._warn(f"not finished after {limit:g} s; metrics.jsonl is complete")
        if self._unsynced is not None:
            _tell(f"W&B: offline; to upload: wandb sync {shlex.quote(str(self._unsynced))}/offline-run-*")

    def _work(self, run: RunInfo) -> None:
        """The thread: opens the record, copies rows, closes it. Continues after a row that wandb refuses."""
        record = self._attempt(functools.partial(self._open, run))
        if record is None:
            return
        self._attempt(functools.partial(_replay, run, record))
        last = run.first_step
        while isinstance(item := self._queue.get(), dict):
            last = item["step"]
            self._attempt(functools.partial(record.log, item, step=item["step"]))
        for step, mean in enumerate(item.inner_steps):  # a chart of its own, over inner steps
            row: dict[str, float] = {"step": last, "test/inner_step": step}  # W&B adds the first too late at times
            row |= {f"test/inner_steps/{key}": value for key, value in mean.items()}
            self._attempt(functools.partial(record.log, row, step=last + 1 + step))
        self._attempt(functools.partial(_show, item.pictures, record, last + 1 + len(item.inner_steps)))
        self._attempt(functools.partial(record.summary.update, item.summary))
        if item.status == "stopped":  # shown as preempted, not as failed: it can be resumed
            self._attempt(record.mark_preempting)
        self._attempt(functools.partial(record.finish, exit_code=0 if item.status == "finished" else 1))
        if self._warned:
            _teardown()

    def _open(self, run: RunInfo) -> "wandb.Run | None":
        mode, key = choose_mode(self.mode)
        if mode == "disabled":
            return None
        # wandb's own error reporting holds up the exit by 20 s when its server does not answer
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

        if mode == "online" and key is None:
            self._warn("no API key found; logging offline (`wandb login` stores one)")
        elif mode == "online":
            try:
                return self._init(run, mode, key)
            except Exception as error:
                self._warn(f"{first_line(error)}; logging offline")
                _teardown()  # otherwise the id counts as in use
        record = self._init(run, "offline", None)
        self._unsynced = run.folder / "wandb"
        return record

    def _init(self, run: RunInfo, mode: str, key: str | None) -> "wandb.Run":
        import wandb

        settings = _settings(mode, self.init_timeout, self.finish_timeout)
        wandb.setup(settings)  # before init, or its messages are not silenced
        settings.api_key = key  # found already: wandb neither searches nor asks
        record = wandb.init(
            project=self.project,
            entity=self.entity,
            dir=run.folder,
            id=re.sub(r"[^\w.-]", "-", run.id)[-MAX_NAME:],
            name=f"{run.name} {run.label}".strip()[:MAX_NAME],
            group=run.group[:MAX_NAME] or None,
            job_type=run.job_type,
            tags=tags([*self.tags, *run.tags]),
            config=dict(run.config),
            resume="allow" if run.first_step else None,  # None: replaces a run of that id
            reinit="create_new",  # does not touch a W&B run that the caller has started
            settings=settings,
        )
        record.define_metric("step")
        record.define_metric("*", step_metric="step")
        record.define_metric("test/inner_step")
        record.define_metric("test/inner_steps/*", step_metric="test/inner_step")
        return record

    def _attempt(self, action: Callable[[], Any]) -> Any:
        """The action's value, or None after an error, of which only the first is reported."""
        try:
            return action()
        except (Exception, SystemExit) as error:
            self._warn(f"{first_line(error)}; metrics.jsonl is complete")
            return None

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            _tell(f"warning: W&B: {text}")


def _replay(run: RunInfo, record: "wandb.Run") -> None:
    """The rows up to where a resumed run goes on that the record lacks: what a kill has lost; of an offline record,
    which knows nothing of earlier ones, all of them."""
    known = record.step
    for row in MetricsFile(run.folder / "metrics.jsonl").read():
        if known <= row["step"] <= run.first_step:
            record.log(row, step=row["step"])


def _show(pictures: Sequence[Path], record: "wandb.Run", step: int) -> None:
    """The run's figures, under their names."""
    import wandb

    if pictures:
        record.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in pictures}, step=step)


def tags(wanted: Sequence[str]) -> list[str]:
    """What W&B takes of these: 1 to 64 characters each, once."""
    cut = (str(tag).strip()[:MAX_TAG].strip() for tag in wanted)
    return sorted({tag for tag in cut if tag})


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"test": {"accuracy": 98.6}} -> {"test/accuracy": 98.6}; nulls and tables are left out."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}/")
        elif value is not None and not (isinstance(value, list) and any(isinstance(row, Mapping) for row in value)):
            flat[f"{prefix}{key}"] = value
    return flat


def _settings(mode: str, init_timeout: float, finish_timeout: float) -> "wandb.Settings":
    """Nothing on the terminal; nothing collected that config.yaml and result.json hold already."""
    import wandb

    wanted: dict[str, Any] = {
        "mode": mode,
        "init_timeout": init_timeout,
        "finish_timeout": finish_timeout,
        "finish_timeout_raises": True,
        **dict.fromkeys(("silent", "quiet", "disable_git", "disable_code"), True),
        **dict.fromkeys(("x_disable_meta", "x_disable_stats", "x_disable_machine_info"), True),
        **dict.fromkeys(("save_code", "x_save_requirements", "symlink"), False),
        "console": "off",
        "x_transaction_log_flush_interval": 1.0,  # seconds; what a killed run may lose
    }
    known = wandb.Settings.model_fields  # the x_ ones come and go with wandb's versions
    return wandb.Settings(**{name: value for name, value in wanted.items() if name in known})


def _teardown() -> None:
    """Ends wandb's service process here, where its errors are caught: at exit they would print a trace."""
    import wandb

    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()


def _tell(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads standard error
        print(text, file=sys.stderr, flush=True)
