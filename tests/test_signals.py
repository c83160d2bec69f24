"""One signal asks to stop, a second one ends the process at once."""

import os
import signal
import subprocess
import sys

import pytest

from fewshot.signals import CAUGHT, Stopped, StopSignal


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
