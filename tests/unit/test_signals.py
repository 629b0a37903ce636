"""Signals in training: where they break work off, and where they wait."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from selfjudge.training.signals import Interrupted, Signals, interruptible


def send(number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)
    for _ in range(1000):  # the handler runs between two bytecodes
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_work_that_may_be_broken_off_is_at_once(number: signal.Signals) -> None:
    with Signals(at_once=True) as signals:
        with pytest.raises(Interrupted), interruptible():
            send(number)
        assert signals.received == number
        with pytest.raises(Interrupted):
            signals.allow()  # what comes after it does not begin


def test_other_work_comes_to_its_end() -> None:
    with Signals(at_once=True) as signals:
        send()
        assert signals.received == signal.SIGTERM
        with pytest.raises(Interrupted), interruptible():
            pytest.fail("began")
    with Signals(at_once=True) as signals:
        signals.allow()
        signals.forbid()
        send()
        with pytest.raises(Interrupted):
            signals.allow()
    with Signals(at_once=True) as signals:
        with interruptible():
            pass
        send()  # no more than before


def test_where_others_wait_nothing_is_broken_off() -> None:
    with Signals(at_once=False) as signals:
        signals.allow()
        send()
        signals.allow()
        with interruptible():
            pass
    assert signals.received == signal.SIGTERM


def test_a_second_ctrl_c_ends_all_and_a_second_sigterm_nothing() -> None:
    with Signals(at_once=True) as signals:
        send()
        send()
        with pytest.raises(KeyboardInterrupt) as caught:
            send(signal.SIGINT)
        assert caught.type is KeyboardInterrupt
    assert signals.received == signal.SIGTERM


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(ValueError, match="x"), Signals(at_once=True):
        raise ValueError("x")
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    with interruptible():
        pass  # without a training nothing is waited for


def test_outside_the_main_thread_there_are_none() -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with Signals(at_once=True), interruptible():
                pass
        except BaseException as e:
            failed.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []
