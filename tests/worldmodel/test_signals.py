"""Stops: asked for once, they wait for a whole update, save it, and change nothing."""

import os
import signal
import threading

import pytest

from worldmodel.signals import GracefulInterrupt


def test_the_first_ctrl_c_is_kept_and_the_second_interrupts(ctrl_c):
    with pytest.raises(KeyboardInterrupt), GracefulInterrupt() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with GracefulInterrupt() as stop:
            os.kill(os.getpid(), signal.SIGINT)
        assert not stop.requested
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_leave_signals_alone(ctrl_c):
    found = []

    def live():
        with GracefulInterrupt():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=live)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
