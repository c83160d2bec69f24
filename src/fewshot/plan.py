"""What a run is to do, before any of its objects exists. Layer 4."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewshot import changes, resume
from fewshot.records import Damaged
from fewshot.run_folder import RunFolder
from fewshot.sizes import in_words, numbers
from fewshot.text import file_name
from fewshot.trained import chosen_names, stored_names


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is to do.

    config: every key, resolved, as plain dicts and lists. names: group (dataset, backbone, algorithm) -> what was
    chosen. parent: where the run's folder is made. folder: of a run whose place is fixed. sweep: it is a sweep's job.
    label: what tells it from other runs of its name, but for the seed.
    departures: what is not as in the preset that it names, whose published value then does not judge it.
    choices: of groups that an evaluation chose anew.
    """

    config: dict[str, Any]
    names: Mapping[str, str]
    run_name: str
    parent: Path
    folder: Path | None = None
    sweep: bool = False
    departures: Sequence[str] = ()
    label: str = ""
    choices: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether there is nothing to do: only a run with a fixed place knows it beforehand."""
        return self.folder is not None and RunFolder(self.folder).finished

    def check_writable(self) -> None:
        """InputError where no folder can be made."""
        resume.check_writable(self.folder.parent if self.folder else self.parent)


def plan_training(
    config: dict[str, Any], choices: Mapping[str, str | None], *, folder: Path | None = None, sweep: bool = False,
    departures: Sequence[str] = (), label: str = "",
) -> Plan:  # fmt: skip
    """choices: group -> name of the YAML file. The run's name is `name`, else <algorithm>_<dataset>_<ways>w<shots>s."""
    names = chosen_names(config, choices)
    what = [file_name(names[group]) for group in ("algorithm", "dataset")]
    ways, shots = ("-".join(map(str, numbers(in_words(config[key])))) for key in ("ways", "shots"))
    name = str(config["name"] or "_".join([*what, f"{ways}w{shots}s"]))
    parent = Path(config["output_dir"]) / "train" / name
    return Plan(config=config, names=names, run_name=name, parent=parent, folder=folder, sweep=sweep,
                departures=departures, label=label)  # fmt: skip


def plan_evaluation(
    config: dict[str, Any], choices: Mapping[str, str | None], *, folder: Path | None = None, label: str = ""
) -> Plan:
    """config: that of the run `run`, with the protocol asked for; choices: of groups that it chose anew (dataset)."""
    run = RunFolder(Path(config["run"]))
    changes.refuse_fixed(config, run.config, choices)
    names = chosen_names(config, stored_names(run) | {group: name for group, name in choices.items() if name})
    own = str(run.result()["name"] if run.finished else run.path.resolve().parent.name)
    if Path(own).name != own:  # of a folder that somebody sent
        raise Damaged(run.path / "result.json", f"name is {own}, which is no name of one folder")
    name = own if config["name"] == run.config["name"] else str(config["name"])
    parent = Path(config["output_dir"]) / "evaluate" / name
    return Plan(config=config, names=names, run_name=name, parent=parent, folder=folder, label=label, choices=choices)
