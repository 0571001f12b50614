"""The ``jaxpurify`` command: thin, no science in it."""

import contextlib
import importlib
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxpurify.cli import signals

# What the overview says of each; the function has the name of its module and, but for `list`, of the command.
COMMANDS = {
    "evaluate": "attack a classifier behind purifiers, and report what is left standing",
    "purify": "purify an image file, or a folder of images",
    "attack": "write attacked images, to show to other models",
    "detect": "measure how well feature squeezing detects attacked images",
    "train": "train a super-resolution, blind-spot or surrogate network, or a classifier",
    "convert": "turn a PyTorch checkpoint into weights that jaxpurify loads",
    "report": "draw the report of an evaluation again from its folder",
    "gallery": "draw a photograph before and after every purifier",
    "list": "show the purifiers, attacks, threat models, classifiers and data known by name",
}
OVERVIEW = """\
usage: jaxpurify COMMAND [OPTIONS]

Purify images against adversarial attacks, and find out honestly how well that works.

{commands}

Start with
  jaxpurify evaluate                  the whole story in about a minute, on photographs that come with it
  jaxpurify COMMAND --help            the options of a command
  jaxpurify --version
"""
RESUMABLE = ("evaluate", "purify", "train")
BAD_INPUT, INTERRUPTED = 2, signals.INTERRUPTED
# How XLA, C++, PyTorch and the system say that memory does not suffice.
TOO_LITTLE_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|bad_alloc|out of memory|not enough memory", re.IGNORECASE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Bad input ends in one sentence on standard error, without a traceback unless ``JAXPURIFY_TRACEBACK=1`` is set.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit code: 0, 2 on bad input, 130 on an interruption.
    """
    _open_streams()
    command, *options = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        warnings.filterwarnings("always", message="Error (reading|writing) persistent compilation cache")
        code = _returned(command, options)
    if code == INTERRUPTED:
        signals.leave()
    return code


def _open_streams() -> None:
    """Give closed output a place to go to, and have characters that a terminal cannot show escaped."""
    for number, name in enumerate(("stdout", "stderr"), start=1):
        if getattr(sys, name) is None:
            # On the number that was closed, or else the next file to be opened would get what is printed.
            with contextlib.suppress(OSError):
                os.fstat(number)
                number = -1
            opened = os.open(os.devnull, os.O_WRONLY)
            if number > 0 and opened != number:
                os.dup2(opened, number)
                os.close(opened)
                opened = number
            setattr(sys, name, open(opened, "w", errors="backslashreplace"))  # noqa: SIM115 (for the whole process)
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def _returned(command: str, options: list[str]) -> int:
    """Run a command, and turn what ends it into an exit code."""
    try:
        with signals.raised():
            code = _run(command, options)
            sys.stdout.flush()
            return code
    except KeyboardInterrupt:
        return _interrupted(command)
    except BrokenPipeError:  # as in `jaxpurify list | head`
        _discard(sys.stdout, sys.stderr)
        return 1
    except (ValueError, TypeError, OSError, ImportError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "KeyboardInterrupt" in str(error):  # in a function that XLA called back
            return _interrupted(command)
        short = isinstance(error, MemoryError) or TOO_LITTLE_MEMORY.search(str(error))
        if os.environ.get("JAXPURIFY_TRACEBACK") == "1" or (isinstance(error, RuntimeError) and not short):
            raise
        _say(_of_memory(error) if short else _sentence(error))
        return BAD_INPUT


def _interrupted(command: str) -> int:
    what = "the same command goes on where this one stopped" if command in RESUMABLE else "nothing was written"
    _say(f"interrupted: {what}")
    return INTERRUPTED


def _discard(*streams: Any) -> None:
    """Send what streams still hold, and the end of the process would write, nowhere."""
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):  # not a file of the system
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(command: str, options: list[str]) -> int:
    if command in ("-h", "--help"):
        lines = (f"  {name:<10}{summary}" for name, summary in COMMANDS.items())
        print(OVERVIEW.format(commands="\n".join(lines)), end="")
        return 0
    if command == "--version":
        from jaxpurify import __version__

        print(f"jaxpurify {__version__}")
        return 0
    if command not in COMMANDS:
        raise ValueError(f"unknown command {command!r}, expected one of: {', '.join(COMMANDS)}")
    name = "catalogue" if command == "list" else command  # a submodule named list would hide the builtin
    module = importlib.import_module(f"jaxpurify.cli.{name}")
    if command == "train":  # it has commands of its own
        kind, *options = options or ["--help"]
        if kind in ("-h", "--help"):
            print(module.overview())
            return 0
        return _parsed(module.kind(kind), f"{command} {kind}", options)
    return _parsed(getattr(module, name), command, options)


def _parsed(function: Callable[..., int], command: str, options: list[str]) -> int:
    """Call a function with the options that were typed, as its annotations and docstring describe them."""
    import tyro

    if {"-h", "--help"} & set(options):
        print(_about(function), end="\n\n")  # before the usage: tyro would join and not wrap the lines of a description
    try:
        return tyro.cli(
            function,
            prog=f"jaxpurify {command}",
            description="",
            args=options,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as stop:  # 0 after --help, 2 after what is wrong with an option was said
        return int(stop.code or 0)


def _about(function: Callable) -> str:
    """Return what a docstring says before its sections, wrapped to the terminal; what is indented stays as it is."""
    import inspect
    import textwrap

    width = min(shutil.get_terminal_size().columns, 100)
    text = re.split(r"\n\n(?:Args|Returns):", inspect.cleandoc(function.__doc__ or ""))[0]
    paragraphs = text.split("\n\n")
    return "\n\n".join(each if each.startswith(" ") else textwrap.fill(each, width) for each in paragraphs)


def _warn(message: Warning | str, category: type[Warning], *where: object, **options: object) -> None:
    """Show a warning of ours as one line; what other libraries warn of is for developers."""
    from jaxpurify.cli.start import of_cache

    if category is UserWarning:
        sentence = of_cache(str(message))
        if sentence:
            _say(" ".join(sentence.split()))


def _say(sentence: str) -> None:
    from jaxpurify.files import printable

    try:
        print(f"jaxpurify: {printable(sentence)}", file=sys.stderr, flush=True)
    except OSError:  # nobody listens any more
        _discard(sys.stderr)


def _of_memory(error: BaseException) -> str:
    """Return what to say where memory does not suffice: how much was asked for, if that is told."""
    told = str(error) if isinstance(error, MemoryError) else ""
    size = re.search(r"(\d+) ?bytes", str(error))
    asked = f" for {int(size[1]) / 1e9:.3g} GB more" if size else ""
    said = " ".join(told.split()) or f"there is not enough memory{asked}"
    return said if ": " in said else f"{said}: give smaller or fewer images at a time, or more memory"


def _sentence(error: Exception) -> str:
    """Return an error as one line; one that was not foreseen says how to see where it came from."""
    if isinstance(error, OSError) and error.strerror:
        said = error.strerror[:1].lower() + error.strerror[1:]
        return f"{os.fsdecode(error.filename)}: {said}" if isinstance(error.filename, str | bytes) else said
    words = " ".join(str(error).split()) or type(error).__name__
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    package = Path(__file__).parent.parent
    if frame is None or Path(frame.tb_frame.f_code.co_filename).is_relative_to(package):
        return words
    return f"{words} (unforeseen: JAXPURIFY_TRACEBACK=1 shows where)"
