"""Ending a run early and cleanly: after the current step, with a checkpoint and an adapter; a later call goes on."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """Whether the run was asked to end after its current step: by its watch, by Ctrl-C or a notebook's stop button."""

    def __init__(self):
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While a model trains, take the first interrupt as a request; the second one interrupts as ever."""
        before = signal.getsignal(signal.SIGINT) or signal.default_int_handler
        # only the main thread may set handlers; a script's background job ignores the signal on purpose
        if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
            yield
            return

        def asked(number, frame):
            self.asked = True
            signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, asked)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def apply(self, state, control) -> bool:
        """Tell transformers to save and to end, where that was asked for and steps are still to come."""
        if not self.asked or state.global_step >= state.max_steps:
            return False
        control.should_save = control.should_training_stop = True
        return True
