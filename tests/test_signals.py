"""One signal asks to stop, a second one ends the process at once."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from fewshot.signals import CAUGHT, Stopped, StopSignal, end_at_once_from_here


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


def test_nothing_is_received_before_a_signal() -> None:
    with StopSignal() as stop:
        assert stop.received is None
        stop.pass_on()


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGUSR2, 75), (signal.SIGINT, 130)]
)
def test_the_first_signal_only_asks(signum: int, code: int) -> None:
    with StopSignal() as stop:
        send(signum)
        assert stop.received == signum
    assert Stopped(signum, "saved at step 3").exit_code == code


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(s) for s in CAUGHT]
    with StopSignal():
        assert all(a != signal.getsignal(s) for a, s in zip(before, CAUGHT, strict=True))
    assert [signal.getsignal(s) for s in CAUGHT] == before


def test_the_launchers_handler_is_called_after_the_save_and_not_before() -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda signum, _: calls.append(signum))
    try:
        with StopSignal() as stop:
            send(signal.SIGUSR2)
            assert calls == []
            stop.pass_on()
            assert calls == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_sleep_ends_with_the_signal_also_where_a_shell_had_it_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for `fewshot ... &` in a script
    try:
        with StopSignal() as stop:
            stop.sleep(0.01)
            assert stop.received is None
            threading.Timer(0.2, send, [signal.SIGINT]).start()
            stop.sleep(3600)
            assert stop.received == signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_is_not_passed_on_as_an_exception() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopSignal() as stop:
            send(signal.SIGINT)
            stop.pass_on()  # no KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("first", "second"), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGUSR1, signal.SIGINT)])
def test_a_second_signal_ends_the_process_at_once(first: int, second: int) -> None:
    script = f"""
import os
from fewshot.signals import StopSignal
with StopSignal():
    try:
        os.kill(os.getpid(), {first})
        print("still here", flush=True)
        os.kill(os.getpid(), {second})
        print("not reached", flush=True)
    finally:
        print("not reached either", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "still here\n"
    assert done.stderr == ""
    assert done.returncode == 128 + second


@pytest.fixture
def launcher() -> Iterator[list[int]]:
    """Handlers as submitit installs them, which only note what they are called with."""
    calls: list[int] = []
    before = {s: signal.signal(s, lambda signum, _: calls.append(signum)) for s in (signal.SIGTERM, signal.SIGUSR2)}
    yield calls
    for signum, handler in before.items():
        signal.signal(signum, handler)


def test_a_preemption_of_several_signals_is_passed_on_in_their_order(launcher: list[int]) -> None:
    """SLURM sends SIGTERM and then SIGUSR2: the second one must not end the process before it has saved."""
    with StopSignal() as stop:
        send(signal.SIGTERM)
        send(signal.SIGUSR2)
        assert stop.received == signal.SIGTERM
        assert launcher == []
        stop.pass_on()
    assert launcher == [signal.SIGTERM, signal.SIGUSR2]


def test_the_run_goes_on_where_the_launchers_handler_comes_back(launcher: list[int]) -> None:
    with StopSignal() as stop:
        send(signal.SIGTERM)
        assert stop.pass_on()
        assert stop.received is None
        send(signal.SIGTERM)
        assert stop.pass_on()
    assert launcher == [signal.SIGTERM] * 2


def test_ctrl_c_ends_the_run_whatever_the_launcher_does(launcher: list[int]) -> None:
    with StopSignal() as stop:
        send(signal.SIGINT)
        send(signal.SIGTERM)
        assert not stop.pass_on()
        assert stop.received == signal.SIGINT
    assert launcher == [signal.SIGTERM]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75)])
@pytest.mark.parametrize("inside", ["end_at_once_from_here()", "StopSignal(at_once=True).__enter__()"])
def test_while_there_is_nothing_to_save_a_signal_ends_the_process_at_once(signum: int, code: int, inside: str) -> None:
    """Also where an import or a library would have made another exception of it."""
    script = f"""
import os, signal
signal.signal({int(signum)}, signal.SIG_DFL)  # whatever started the tests may have it ignored
from fewshot.signals import StopSignal, end_at_once_from_here
{inside}
try:
    os.kill(os.getpid(), {int(signum)})
except BaseException:
    print("another exception")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "stopped\n", code)


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        end_at_once_from_here()
        with StopSignal() as stop:
            send(signal.SIGHUP)
            assert stop.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_takes_long_says_what_it_waits_for(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewshot.signals.PATIENCE", 0.1)
    with StopSignal(at_once=True) as stop, stop.deferred("this step ends and is saved"):
        send(signal.SIGTERM)
        assert stop.received == signal.SIGTERM
        time.sleep(0.5)
    assert capfd.readouterr().err == "stopping: this step ends and is saved first (again: at once)\n"


def test_at_once_calls_the_launchers_handler(launcher: list[int]) -> None:
    with StopSignal(at_once=True):
        send(signal.SIGUSR2)
        assert launcher == [signal.SIGUSR2]
