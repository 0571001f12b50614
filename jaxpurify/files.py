"""Files that are written whole or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(path: str | os.PathLike, write: Callable[[Any], Any]) -> None:
    """Write a file so that a reader, or a later run, finds all of it or what was there before.

    Args:
        path: where to; its folder must exist.
        write: called with a binary file.

    Raises:
        OSError: if the folder does not exist or cannot be written to.
    """
    path = Path(path)
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
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()))
