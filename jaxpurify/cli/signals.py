"""Ctrl-C, from the first import to the last line: one sentence and exit code 130, and it is never lost."""

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

INTERRUPTED = 130


def guard() -> None:
    """End the command at once where Ctrl-C comes while its modules are imported, some of which would swallow it.

    Nothing is changed where the library is imported by another program.
    """
    if _is_command() and _is_ours(signal.default_int_handler):
        signal.signal(signal.SIGINT, _stop)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` on Ctrl-C, again where it came in a place that cannot raise it.

    Yields:
        Nothing.
    """
    guarded, before = _is_ours(_stop), sys.unraisablehook

    def again(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            threading.Timer(0.05, _thread.interrupt_main).start()
        else:
            before(unraisable)

    sys.unraisablehook = again
    try:
        if guarded:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    finally:
        if guarded:  # what is left is the end of the process
            signal.signal(signal.SIGINT, _leave)
        sys.unraisablehook = before


def leave() -> None:
    """End the command after an interruption, but not the interpreter: XLA may still be at work in threads."""
    if not _is_command():
        return
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(INTERRUPTED)


def _is_command() -> bool:
    given = sys.orig_argv
    module = given[given.index("-m") + 1 :][:1] if "-m" in given else []
    return module == [__name__.split(".")[0]] or Path(sys.argv[0] if sys.argv else "").stem == __name__.split(".")[0]


def _is_ours(handler: Any) -> bool:
    return threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is handler


def _stop(*_: Any) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"jaxpurify: interrupted: nothing was written\n")
    os._exit(INTERRUPTED)


def _leave(*_: Any) -> None:
    os._exit(INTERRUPTED)


guard()
