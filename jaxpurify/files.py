"""Paths as people write them, and files that are written whole or not at all."""

import errno
import io
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def expanded(value: str | bytes | os.PathLike) -> Path:
    """Return a path that a caller gave, with the home directory in the place of ``~``.

    Args:
        value: a string, a path, or bytes as the system has them.

    Returns:
        The path.

    Raises:
        TypeError: if it is neither.
        ValueError: if it begins with the name of a user who is not known.
    """
    if not isinstance(value, str | bytes | os.PathLike):
        raise TypeError(f"a path must be a string or a pathlib.Path, got {type(value).__name__}")
    try:
        return Path(os.fsdecode(value)).expanduser()
    except RuntimeError as error:
        raise ValueError(f"the home directory in {str(value)!r} is not known ({error}): write it out") from None


def printable(path: str | os.PathLike) -> str:
    """Return a path as text that can be printed in one line anywhere: what cannot be shown is escaped.

    Args:
        path: the path; its name may hold bytes that are no text, or line breaks.

    Returns:
        The text.
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in os.fspath(path))


def identity(path: str | os.PathLike) -> tuple[int, int] | None:
    """Return what two names of one file share, whatever links lead to it.

    Args:
        path: any path.

    Returns:
        Device and number of the file; None if there is none.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check_apart(target: str | os.PathLike, sources: Iterable[str | os.PathLike]) -> None:
    """Check that a file to be written is none of those that are read, by another name or through links.

    Args:
        target: where to write.
        sources: what is read.

    Raises:
        ValueError: if the target is one of them.
    """
    found = identity(target)
    for source in sources if found else ():
        if identity(source) == found:
            raise ValueError(f"{target} is the same file as the source {source}: choose another name")


def write_whole(path: str | bytes | os.PathLike, write: Callable[[Any], Any]) -> None:
    """Write a file so that a reader, or a later run, finds all of it or what was there before.

    It is put together in memory first. What a symbolic link points to is replaced, and the link stays.

    Args:
        path: where to; its folder must exist.
        write: called with a binary file.

    Raises:
        OSError: if the folder does not exist or cannot be written to, or the disk is full.
    """
    path, content = expanded(path), io.BytesIO()
    write(content)
    try:
        place = _behind_links(path)
        if place.exists() and not place.is_file():  # a device or a pipe; a folder is refused by the system
            place.write_bytes(content.getbuffer())
            return
        partial = partial_beside(place)
        try:
            # By Python's own file: a library that writes to the descriptor may take a full disk for success.
            with open(partial, "xb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            if place.exists():
                os.chmod(partial, stat.S_IMODE(place.stat().st_mode))
            os.replace(partial, place)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        number = error.errno or errno.EIO
        raise OSError(number, error.strerror or str(error), str(path)) from error


def partial_beside(path: Path) -> Path:
    """Return a name for what is not whole yet: hidden, short, in the same folder, and nobody else's.

    Args:
        path: the name that it will get.

    Returns:
        A path that does not exist.
    """
    return path.with_name(f".{secrets.token_hex(6)}.partial")


def _behind_links(path: Path) -> Path:
    """Return the place that a path means, which need not exist."""
    place = Path(os.path.realpath(path))
    if place.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return place


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
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # Names that are no text have surrogates, which JSON holds escaped.
    write_whole(path, lambda file: file.write(text.encode(errors="backslashreplace")))
