"""A real SLURM on this machine for the time of a test: Debian's packages unpacked into a folder, two daemons.

Nothing is installed. The templates lie in `shared/slurm` beside the checkout; as root only (slurmd needs it).
"""

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

TEMPLATES = Path(__file__).parents[3] / "shared" / "slurm"
PACKAGES = [
    "libhwloc15", "liblua5.1-0", "libmunge2", "munge", "slurm-wlm-basic-plugins", "slurm-client", "slurmctld", "slurmd",
]  # fmt: skip
PORTS = (16817, 16818)


class Unavailable(Exception):
    """Why there can be no SLURM here."""


class Slurm(NamedTuple):
    """A running cluster of one node with two cores."""

    root: Path
    environment: Mapping[str, str]

    def run(self, *command: str) -> str:
        """One of SLURM's programs; its output."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{command}: {done.stderr or done.stdout}"
        return done.stdout

    def release(self) -> None:
        """SLURM holds a requeued job for two minutes: let all of them start now."""
        for ident, facts in self.jobs().items():
            if facts["JobState"] == "PENDING" and facts["Reason"] == "BeginTime":
                self.run("scontrol", "update", f"jobid={ident}", "StartTime=now")

    def jobs(self) -> dict[str, dict[str, str]]:
        """What `scontrol show job` tells of each job that it remembers, by the name that submitit gives it."""
        found = {}
        for line in self.run("scontrol", "-o", "show", "job").splitlines():
            facts = dict(word.split("=", 1) for word in line.split() if "=" in word)
            if "JobId" in facts:
                whole = facts["JobId"]
                found[f"{facts['ArrayJobId']}_{facts['ArrayTaskId']}" if "ArrayJobId" in facts else whole] = facts
        return found


@contextlib.contextmanager
def running(root: Path, settings: str = "") -> Iterator[Slurm]:
    """Start slurmctld and slurmd in the empty folder `root`; end both. Unavailable says what is missing.

    settings: further lines for slurm.conf.
    """
    _check_machine()
    with _only_one():
        environment = _prepare(root, settings)
        yield from _daemons(root, environment)


def _daemons(root: Path, environment: Mapping[str, str]) -> Iterator[Slurm]:
    programs, settled = root / "root" / "usr" / "sbin", ["-D", "-f", str(root / "slurm.conf")]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in (["slurmctld-wlm"], ["slurmd-wlm", "-d", str(programs / "slurmstepd-wlm")]):
            with (root / "log" / f"{command[0]}.out").open("wb") as output:
                words = [str(programs / command[0]), *settled, *command[1:]]
                quiet = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
                daemons.append(subprocess.Popen(words, env=environment, **quiet))
        slurm = Slurm(root, environment)
        _wait_until_idle(slurm, daemons)
        yield slurm
        with contextlib.suppress(subprocess.SubprocessError):  # what a failed test has left
            subprocess.run(["scancel", "--user=root"], env=environment, timeout=10, capture_output=True)
            _wait_for_no_jobs(slurm)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in reversed(daemons):
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise Unavailable("slurmd runs as root only")
    if not (TEMPLATES / "slurm.conf.in").is_file():
        raise Unavailable(f"no templates in {TEMPLATES}")
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise Unavailable(f"no {tool}: this is no Debian")


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """The ports are the machine's: other processes of pytest that ask for a SLURM wait until this one has ended."""
    with (Path(tempfile.gettempdir()) / "fewshot_tests_slurm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prepare(root: Path, settings: str) -> dict[str, str]:
    """Packages and settings; the environment in which SLURM's programs work."""
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise Unavailable(f"port {port} is taken: another SLURM runs here")
    _download(root)
    for package in root.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, root / "root"], check=True, timeout=60)
    for folder in ("state", "spool", "run", "log"):
        (root / folder).mkdir()
    for name in ("slurm.conf", "env.sh"):
        text = (TEMPLATES / f"{name}.in").read_text()
        (root / name).write_text(text.replace("@ROOT@", str(root)).replace("@HOST@", socket.gethostname()))
    with (root / "slurm.conf").open("a") as file:
        file.write(settings)
    shown = subprocess.run(
        ["bash", "-c", f"source '{root / 'env.sh'}' && env -0"],
        capture_output=True, text=True, check=True, timeout=10,
    )  # fmt: skip
    return dict(entry.split("=", 1) for entry in shown.stdout.split("\0") if "=" in entry)


def _download(root: Path) -> None:
    """Once as it is, and once more after `apt-get update`, which a fresh machine needs."""
    fetch = ["apt-get", "download", *PACKAGES]
    for attempt in (["true"], ["apt-get", "update"]):
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(attempt, capture_output=True, timeout=60, check=False)
            done = subprocess.run(fetch, cwd=root, capture_output=True, text=True, timeout=60, check=False)
            if done.returncode == 0:
                return
    raise Unavailable("apt-get cannot fetch SLURM's packages")


def _wait_until_idle(slurm: Slurm, daemons: list[subprocess.Popen[bytes]]) -> None:
    """Until the node takes jobs; a minute and a half at most."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        dead = [str(daemon.args) for daemon in daemons if daemon.poll() is not None]
        if dead:
            logs = "".join(path.read_text(errors="replace")[-500:] for path in (slurm.root / "log").iterdir())
            raise Unavailable(f"{dead} ended at its start: {logs}")
        done = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], env=slurm.environment, capture_output=True, text=True, timeout=60, check=False
        )
        if done.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    raise Unavailable("the node is not idle after 90 s")


def _wait_for_no_jobs(slurm: Slurm) -> None:
    end = time.monotonic() + 15
    while time.monotonic() < end:
        done = subprocess.run(["squeue", "-h"], env=slurm.environment, capture_output=True, text=True, timeout=10)
        if not done.stdout.strip():
            return
        time.sleep(0.5)
