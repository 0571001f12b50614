"""The folder of a training run: whose it is, and what it was trained on."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxpurify import runs
from jaxpurify.datasets.dataset import Dataset
from jaxpurify.environment import environment
from jaxpurify.evaluation.identity import identify
from jaxpurify.files import write_json
from jaxpurify.training.checkpoints import read_notes
from jaxpurify.training.journal import METRICS
from jaxpurify.training.sampling import CROPS, generator
from jaxpurify.training.task import Task

FORMAT = 2  # of what a run folder holds. 2: all of the data is hashed, and checkpoints say of which training they are
CUT = 16  # examples that are cut at once


def claim(run: Path, arguments: dict[str, Any], *, data: str) -> tuple[runs.Lock, str]:
    """Make a run folder and claim it, or refuse one that holds another training.

    Args:
        run: the run folder.
        arguments: all that decides what is trained.
        data: where the data came from, for readers.

    Returns:
        The lock, to be closed when the training ends, and a hash of the arguments.

    Raises:
        OSError: if the folder cannot be written.
        ValueError: if it holds another training or none that can be told, or another process is writing to it.
    """
    arguments = json.loads(json.dumps(arguments))
    identity = runs.identity(arguments)
    _check(run, arguments, identity)  # before the folder is made or claimed
    run.mkdir(parents=True, exist_ok=True)
    lock = runs.lock_folder(run)
    try:
        if not _check(run, arguments, identity):
            about = {"format": FORMAT, "arguments": arguments, "sha256": identity}
            write_json(run / "config.json", about | {"from": data, "environment": environment()})
    except BaseException:
        lock.close()
        raise
    return lock, identity


def _check(run: Path, arguments: dict[str, Any], identity: str) -> bool:
    """Say whether the folder holds this training, and refuse another's."""
    if not os.path.lexists(run / "config.json"):
        notes = read_notes(run / "checkpoints")
        left = [name for name in (METRICS, "weights.safetensors") if (run / name).exists()]
        if any(each["run"] != identity for each in notes.values()) or (left and not notes):
            raise ValueError(
                f"run folder {run} has no config.json, and {'checkpoints' if notes else left[0]} may be of another "
                "training: put config.json back, or choose another folder"
            )
        return False
    try:
        config = runs.read_config(run)
    except ValueError as error:
        raise ValueError(
            f"{run / 'config.json'} cannot be read ({error}): choose another folder, or move the file away and give "
            "the same arguments to go on"
        ) from None
    if config.get("format", 1) != FORMAT:
        raise ValueError(
            f"run folder {run} was written by another version of jaxpurify, which did not note all of its data: its "
            "weights and log can be used as they are, but the training cannot go on; choose another folder"
        )
    before, other = config["arguments"], []
    for name in dict.fromkeys((*arguments, *before)):
        old, new = before.get(name), arguments.get(name)
        if old != new:
            other += ["data"] if name == "data" else runs.changes(old, new, name=name)
    if other:
        raise ValueError(
            f"run folder {run} holds a training with other {', '.join(other)}: give the same arguments to go on with "
            "it, or choose another folder"
        )
    return True


def hash_data(task: Task, sources: Sequence[tuple[Any, np.ndarray]]) -> str:
    """Hash all examples: every pixel and label, and which of them are trained and scored on.

    Args:
        task: what cuts them.
        sources: what ``task.prepare`` returned, with the rows that are used.

    Returns:
        A SHA-256, in hexadecimal digits.
    """
    digest, whole = hashlib.sha256(), {}
    for source, which in sources:
        if id(source) not in whole:
            whole[id(source)] = _hash(digest, source)
        # What a source of one's own makes its examples of may not all be held in arrays: then each is cut once.
        count = min(len(which), CUT) if whole[id(source)] else len(which)
        for first in range(0, count, CUT):
            found = task.batch(source, which[first : first + CUT], generator((0,), CROPS))
            for name, values in found.items():
                _hash(digest, (name, np.asarray(values)))
        _hash(digest, which)
    return digest.hexdigest()


def _hash(digest: Any, value: Any) -> bool:
    """Hash all numbers of a source of examples; False where it is more than arrays."""
    if isinstance(value, np.ndarray | np.generic | jax.Array) and value.dtype != object:
        array = np.ascontiguousarray(value)
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
        return True
    if isinstance(value, Dataset):
        return _hash(digest, (value.images, value.labels, value.class_names))
    if isinstance(value, list | tuple):
        digest.update(f"{len(value)}:".encode())
        groups = [value.groups] if hasattr(value, "groups") else []
        whole = [_hash(digest, each) for each in (*value, *groups)]
        return all(whole)
    if value is None or isinstance(value, str | bytes | bool | int | float):
        digest.update(repr(value).encode())
        return True
    digest.update(identify(value)[0].encode())
    return False
