"""What a run does with its folder, whatever is run: claim it, read what an earlier one wrote, and compare arguments."""

import contextlib
import errno
import hashlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

# What file systems without locks answer, some of a network's for example.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})
# Of a folder that others may write, or nobody: what is written next says so in its own words.
_NOT_WRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
LETTERS = 60  # of a value in a message


class Lock:
    """Claim a folder, or a file that is to be written, for this object alone; a context manager.

    The operating system keeps the lock and lets go of it when the process ends, however it ends. On a file system
    without locks, or that is read-only, nothing is claimed and nothing is refused.

    Args:
        path: the file of the lock; its folder must exist.
        what: what is claimed, for the message.

    Raises:
        ValueError: if another process, or another thread of this one, has claimed it.
    """

    def __init__(self, path: Path, *, what: str):
        self.path, self._file = path, -1
        while self._file < 0:
            try:
                file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                if error.errno in _NOT_WRITABLE | _NO_LOCKS:
                    return
                raise
            try:
                _claim(file)
            except OSError as error:
                owner = os.pread(file, 200, 0) if hasattr(os, "pread") else b""
                os.close(file)
                if error.errno in _NO_LOCKS:
                    return
                by = owner.decode("utf-8", "replace").strip("\0\n") or "another process"
                raise ValueError(
                    f"{what} is being written by {by}: wait until that is done, or choose another"
                ) from None
            if _is_at(file, path):  # and was not removed by its last owner in between
                self._file = file
            else:
                os.close(file)
        with contextlib.suppress(OSError):  # a full disk is met by what is written next
            os.truncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())

    def close(self) -> None:
        """Let go of the folder."""
        file, self._file = self._file, -1
        if file >= 0:
            with contextlib.suppress(OSError):  # a file that nobody holds claims nothing
                self.path.unlink(missing_ok=True)
            os.close(file)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            self.close()


def _claim(file: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, 1 << 20, os.SEEK_SET)  # beyond the owner's name, which others read
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


def lock_folder(folder: Path) -> Lock:
    """Claim a run folder.

    Args:
        folder: it must exist.

    Returns:
        The lock, to be closed when the run is done.

    Raises:
        ValueError: if another run has claimed it.
    """
    return Lock(folder / ".lock", what=f"run folder {folder}")


def check_unclaimed(folder: Path) -> None:
    """Refuse a folder that another run is writing to, before anything is computed.

    Args:
        folder: it need not exist.

    Raises:
        ValueError: if another run has claimed it.
    """
    if (folder / ".lock").is_file():
        lock_folder(folder).close()


def reason(error: BaseException) -> str:
    """Return what a file could not be read or written for, in a few words.

    Args:
        error: what was raised; the first system error of its chain says most.

    Returns:
        Such as ``No space left on device``.
    """
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, OSError) and each.errno is not None:
            return os.strerror(each.errno)
        each = each.__cause__ or each.__context__
    return " ".join(str(error).split())[:160] or type(error).__name__


def parse(text: bytes) -> Any:
    """Read JSON that a run wrote.

    Args:
        text: UTF-8.

    Returns:
        What it holds.

    Raises:
        ValueError: saying in a few words what is wrong with it.
    """
    if not text.strip():
        raise ValueError("it is empty")
    if b"\0" in text:
        raise ValueError("it holds zeros in the place of text")
    try:
        found = json.loads(text.decode("utf-8"))
        json.dumps(found, ensure_ascii=False).encode()
        return found
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half of a character") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error}") from None
    except (RecursionError, ValueError) as error:  # thousands of brackets, or of digits
        raise ValueError(f"no JSON: {str(error)[:80]}") from None


def read_config(folder: Path) -> dict[str, Any]:
    """Read a run folder's ``config.json``.

    Args:
        folder: the run folder.

    Returns:
        ``arguments`` and ``environment``, a dictionary each, and what else stands there.

    Raises:
        ValueError: saying in a few words, without the file's name, what is wrong with it.
    """
    try:
        config = parse((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise ValueError("it is not there") from None
    except OSError as error:
        raise ValueError(reason(error)) from None
    if not isinstance(config, dict):
        raise ValueError("it holds no object")
    for name in ("arguments", "environment"):
        if not isinstance(config.get(name), dict):
            raise ValueError(f"it holds no {name}")
    if config.get("sha256", known := identity(config["arguments"])) != known:
        raise ValueError("its arguments have changed since they were written")
    if not isinstance(config.get("taken_up_in", []), list):
        raise ValueError("its taken_up_in is no list")
    return config


def identity(arguments: Any) -> str:
    """Return a hash of the arguments of a run, which what it writes carries.

    Args:
        arguments: what JSON can hold.

    Returns:
        Sixteen hexadecimal digits.
    """
    text = json.dumps(arguments, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changes(before: Any, now: Any, *, name: str = "") -> list[str]:
    """Say which fields of two sets of arguments differ, down to the innermost.

    Args:
        before: what JSON can hold.
        now: likewise.
        name: of the field that the two are.

    Returns:
        Such as ``recipe.clip (1.0, now 2.0)``.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        names = [*now, *(each for each in before if each not in now)]
        inner = ((f"{name}.{each}" if name else each, before.get(each), now.get(each)) for each in names)
        return [text for each, old, new in inner if old != new for text in changes(old, new, name=each)]
    return [f"{name} ({_short(before)}, now {_short(now)})"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"
