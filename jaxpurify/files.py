"""Paths as people write them, and files that are written whole or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def expanded(value: str | os.PathLike) -> Path:
    """Return a path that a caller gave, with the home directory in the place of ``~``.

    Args:
        value: a string or a path.

    Returns:
        The path.

    Raises:
        TypeError: if it is neither.
        ValueError: if it begins with the name of a user who is not known.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"a path must be a string or a pathlib.Path, got {type(value).__name__}")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"the home directory in {str(value)!r} is not known ({error}): write it out") from None


def write_whole(path: str | os.PathLike, write: Callable[[Any], Any]) -> None:
    """Write a file so that a reader, or a later run, finds all of it or what was there before.

    Args:
        path: where to; its folder must exist.
        write: called with a binary file.

    Raises:
        OSError: if the folder does not exist or cannot be written to.
    """
    path = expanded(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise type(error)(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write JSON whole or not at all, and the folder for it where that is not there.

    Args:
        path: where to.
        value: what JSON can hold.

    Raises:
        OSError: if it cannot be written.
    """
    path = expanded(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()))
