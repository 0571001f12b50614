"""Ctrl-C while training: a step is finished and saved first."""

import signal
import threading
from types import FrameType
from typing import Any


class Interruption:
    """Note that the user asked to stop, so that the loop stops where it can go on; a context manager.

    Asked a second time, it raises ``KeyboardInterrupt`` at once. Outside the main thread, or where somebody else
    handles the signal, nothing is changed.

    Attributes:
        asked: whether the user asked.
    """

    def __init__(self) -> None:
        self.asked = False
        self._installed = False

    def __enter__(self) -> "Interruption":
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._ask)
            self._installed = True
        return self

    def __exit__(self, *error: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _ask(self, number: int, frame: FrameType | None) -> Any:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
