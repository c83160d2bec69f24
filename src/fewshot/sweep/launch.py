"""From a launcher's overrides to jobs with a configuration, a record and a result. Layer 7; no torch."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import get_class
from omegaconf import DictConfig, open_dict

from fewshot.cli.compose import HydraJob
from fewshot.cli.job import folder_of_sweep, job_identity, plain
from fewshot.cli.validate import validate
from fewshot.errors import FewshotError, InputError
from fewshot.run_folder import RunFolder
from fewshot.sweep import needs
from fewshot.sweep.batch import Batch
from fewshot.sweep.jobs import Job, SweepRecord
from fewshot.sweep.process import warm_up
from fewshot.sweep.settings import plain as plain_keys
from fewshot.sweep.slots import Slot, plan
from fewshot.sweep.view import View


class Sweep:
    """The jobs of one command, in one folder; a sweeper launches them in one batch or in several."""

    def __init__(
        self, batch: str, keys: Mapping[str, Any], task: Any, loader: ConfigLoader, config: DictConfig
    ) -> None:  # fmt: skip
        """batch: import path of a subclass of `Batch`. keys: those of the launcher."""
        if not isinstance(task, HydraJob):
            raise InputError("this launcher runs the jobs of fewshot only; choose hydra/launcher=basic")
        self._batch: type[Batch] = get_class(batch)
        self.settings: Any = self._batch.settings_type(**plain_keys(keys))
        if self._batch.package:
            needs(self._batch.package, extra=str(config.hydra.runtime.choices["hydra/launcher"]))
        self.task, self.config = task, config
        self.folder = folder_of_sweep(config.hydra)
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._load = loader.load_sweep_config
        loader.load_sweep_config = self._load_once  # type: ignore[method-assign]  # sweepers also compose every job
        self._record: SweepRecord | None = None
        self._jobs: list[Job] = []  # of all batches, in order
        self._view: View | None = None
        if self._batch.on_this_machine and not (self.folder / "sweep.json").exists():
            self.warm_up()  # a new sweep: there is work, and composing it takes time, too

    def warm_up(self) -> None:
        """Import torch now, in the process that jobs are forked from."""
        warm_up(gpus=any(slot.gpu is not None for slot in self.slots))

    @property
    def at_a_time(self) -> int | None:
        """How many jobs run together, where that is known before the first launch."""
        return len(self.slots) if self._batch.on_this_machine else None

    @cached_property
    def slots(self) -> list[Slot]:
        """Of this machine."""
        return plan(self.settings.slots, str(self.config.device), self.config.threads)

    def _load_once(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        key = tuple(sweep_overrides)
        if key not in self._composed:
            self._composed[key] = self._load(master_config, sweep_overrides)
        return self._composed[key]

    def run(self, job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
        """Run what has no result yet. Raises Stopped after a signal, once every job has saved and ended."""
        record, view = self._shown()
        prepared = [self._prepare(list(words)) for words in job_overrides]
        for job, _ in prepared:
            if not any(job is other for other in self._jobs):
                self._jobs.append(job)
        self._batch(self, record, view, {job.number: (job, cfg) for job, cfg in prepared}).run()
        jobs = [job for job, _ in prepared]
        self.task.codes += [0 if job.status == "done" else 1 for job in jobs]
        return [self._returned(job, cfg) for job, cfg in prepared]

    def recall(self) -> None:
        """Take the jobs of earlier calls into the table: a search does not run them again."""
        record, _ = self._shown()
        self._jobs += record.jobs

    def _shown(self) -> tuple[SweepRecord, View]:
        """The record of the jobs and their table, which is printed at the end."""
        self._record = self._record or SweepRecord(self.folder, ["fewshot", self.task.verb, *self.task.argv])
        if self._view is None:
            self._view = View(self._jobs, self.folder)
            self.task.closing.append(self._view.summary)
        return self._record, self._view

    def _prepare(self, words: list[str]) -> tuple[Job, DictConfig | None]:
        """A job and its configuration; None where it cannot be run, which is the job's own failure."""
        assert self._record is not None
        cfg = self._load_once(self.config, words)
        own = cfg.copy()
        with open_dict(own):
            del own["hydra"]
        try:
            validate(own, self.task.config_name, words)
            return self._record.job(job_identity(self.task.verb, plain(own)), words), cfg
        except FewshotError as error:
            job = self._record.job(None, words)
            job.status, job.exit_code, job.reason = "failed", error.exit_code, f"exit code {error.exit_code}: {error}"
            return job, None

    def _returned(self, job: Job, cfg: DictConfig | None) -> JobReturn:
        """What Hydra returns to a sweeper: the objective from the job's result.json, NaN where there is no result."""
        value: Any = math.nan
        if job.status == "done" and job.identity:
            value = RunFolder(self.folder / job.identity).result()
            for key in self.settings.objective.split("."):
                value = value.get(key) if isinstance(value, dict) else None
            value = float(value) if isinstance(value, int | float) else math.nan
        return JobReturn(overrides=job.overrides, cfg=cfg, status=JobStatus.COMPLETED, _return_value=value)
