"""What the command, and never the library, does to JAX before its backend starts."""

import contextlib
import hashlib
import logging
import os
import platform
import re
from pathlib import Path
from typing import Any

QUIET_LOGGERS = ("absl", "urllib3", "jax._src.xla_bridge", "jax._src.compiler", "jax._src.compilation_cache")
CACHED_BYTES = 2**30
CACHE_FAULT = re.compile(r"Error (reading|writing) persistent compilation cache entry for '(.+?)': (.*)", re.DOTALL)
_SAID: list[str] = []  # of a cache that cannot be written, of which one sentence is enough


def start(*, cache: bool = True) -> None:
    """Make every CPU core a device, and keep compiled programs on disk, so that a second run starts at once.

    What the user has set already (``JAX_NUM_CPU_DEVICES``, ``XLA_FLAGS``, ``JAX_COMPILATION_CACHE_DIR``) is left alone.

    Args:
        cache: whether to keep compiled programs.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    import jax

    settings: Any = jax.config
    if settings.jax_num_cpu_devices < 0 and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        # A batch divided over the cores is faster than one device that uses them all. It refuses where the backend runs
        # already, since somebody called the command from Python.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", cores())
    if not cache or settings.jax_compilation_cache_dir is not None:
        return
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        forget(folder, CACHED_BYTES)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def cores() -> int:
    """Return how many cores this process may use.

    Returns:
        At least 1: the affinity where the system knows it, less where a container has a smaller share.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no control groups, or no quota
        return count


def cache_folder() -> Path:
    """Return where compiled programs are kept: one folder a kind of processor, since homes are shared by machines.

    Returns:
        A path in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        flags = platform.processor()
    kind = f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "jaxpurify" / "xla" / kind


def forget(folder: Path, most: int) -> None:
    """Remove the oldest compiled programs of a folder that has grown too large.

    Args:
        folder: the cache.
        most: bytes that may stay.
    """
    entries = [(file.stat().st_mtime, file.stat().st_size, file) for file in folder.iterdir() if file.is_file()]
    size = sum(entry[1] for entry in entries)
    for _, bytes_, file in sorted(entries):
        if size <= most:
            return
        file.unlink(missing_ok=True)
        size -= bytes_


def of_cache(warning: str) -> str:
    """Mend what JAX warns of: remove the damaged entries of a program from its cache, which are then written anew.

    Args:
        warning: any warning.

    Returns:
        What is to be said: another warning as it is, nothing where all is mended, and only once that no programs can
        be kept.
    """
    fault = CACHE_FAULT.match(warning)
    if fault is None:
        return warning
    import jax

    settings: Any = jax.config
    folder, (task, name, reason) = Path(settings.jax_compilation_cache_dir), fault.groups()
    kept = [file for file in folder.glob("*-cache") if file.name.startswith(f"{name}-")]
    try:
        for file in [file for file in kept if not _is_whole(file)] or (kept if task == "reading" else []):
            file.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
    else:
        if task == "reading":
            return ""
    if _SAID:
        return ""
    _SAID.append(reason)
    return f"compiled programs cannot be kept in {folder} ({reason}), which takes more time: make room there"


def _is_whole(file: Path) -> bool:
    """Tell whether a compiled program that was kept can be unpacked; where JAX does not say, it is taken as damaged."""
    try:
        from jax._src.compilation_cache import decompress_executable

        decompress_executable(file.read_bytes())
    except Exception:  # of whatever packs it, or of another release of JAX
        return False
    return True
