"""`graceful_interrupt` records the first Ctrl-C, and the second one interrupts."""

import os
import signal
import threading

import pytest

from worldmodel.training.signals import graceful_interrupt


def test_first_ctrl_c_is_recorded_and_second_interrupts(ctrl_c):
    with pytest.raises(KeyboardInterrupt), graceful_interrupt(delay=True) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with graceful_interrupt(delay=True) as stop:
            os.kill(os.getpid(), signal.SIGINT)
        assert not stop.requested
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_do_not_change_signal_handlers(ctrl_c):
    handlers = []

    def run_in_thread():
        with graceful_interrupt(delay=True):
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run_in_thread)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
