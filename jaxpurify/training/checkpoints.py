"""Checkpoints of a training run, by Orbax: whole or not at all, the last few and the best."""

import contextlib
import errno
import gc
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import runs
from jaxpurify.files import expanded, write_json

NOTES, SCORES = "_CHECKPOINT_METADATA", "metrics/metrics"  # Orbax' own names
SUMS = "sha256.json"  # ours, in the folder of a checkpoint: what its files hold
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Checkpoints:
    """Keep the last checkpoints of a run, and the best.

    Args:
        folder: where; made if it is not there. What an interrupted write left there is removed.
        keep: how many of the last.
        metric: the name of the score that says which is best.
        greater_is_better: whether a larger score is better.
        identity: of the training; a checkpoint of another is refused. None asks no checkpoint whose it is.

    Raises:
        ValueError: if one of them is damaged, naming the file, or of another training; nothing is changed then.
    """

    def __init__(
        self, folder: str | os.PathLike, *, keep: int, metric: str, greater_is_better: bool, identity: str | None = None
    ):
        import orbax.checkpoint as ocp

        self.folder, self.metric, self.identity = expanded(folder).resolve(), metric, identity
        self._notes = read_notes(self.folder)
        others = [step for step, notes in self._notes.items() if identity not in (None, notes["run"])]
        if others:
            raise ValueError(
                f"the checkpoint of step {others[0]} in {self.folder} is of another training: move the folder "
                f"{self.folder / str(others[0])} away to go on without it"
            )
        worst = -math.inf if greater_is_better else math.inf

        def score(scores: dict[str, float]) -> float:
            found = scores.get(metric, worst)
            return worst if math.isnan(found) else found

        policies = ocp.checkpoint_managers
        best = policies.BestN(
            get_metric_fn=score, reverse=not greater_is_better, n=1, keep_checkpoints_without_metrics=False
        )
        options = ocp.CheckpointManagerOptions(
            create=True,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=False,  # a failed write is then known at the step that it belongs to
            best_fn=score,  # without it scores are not written, and a run that goes on forgets its best checkpoint
            best_mode="max" if greater_is_better else "min",
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
        )
        try:
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        except Exception as error:  # Orbax raises whatever it meets
            steps = ", ".join(map(str, self._notes)) or "none"
            raise ValueError(
                f"the checkpoints in {self.folder} (of steps {steps}) cannot be read: {_cause(error)}"
            ) from error
        self._ocp = ocp

    @property
    def last(self) -> int | None:
        """The step of the last checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step of the checkpoint with the best score; the last where none was scored; None where there is none."""
        return self._manager.best_step()

    def save(
        self,
        step: int,
        state: Any,
        scores: dict[str, float] | None,
        *,
        waiting: Sequence[dict[str, float]] = (),
        log: tuple[int, str] = (0, ""),
    ) -> None:
        """Write a checkpoint.

        Args:
            step: how many steps are done.
            state: any pytree of arrays.
            scores: what the network reached on images held out, by name; None if it was not scored.
            waiting: measures of the steps since the last line of the log.
            log: how many lines the log has, and their hash.

        Raises:
            OSError: if it cannot be written: a full disk, say. What was there before is kept.
        """
        named = _named(state)
        notes = {
            "run": self.identity or "",
            "waiting": list(waiting),
            "lines": log[0],
            "log": log[1],
            "scores": scores or {},
            "structure": _structure(named),
            "sha256": _digest(named),
        }
        try:
            self._manager.save(
                step, args=self._ocp.args.StandardSave(named), metrics=scores or {}, custom_metadata=notes
            )
            self._manager.wait_until_finished()
            write_json(self.folder / str(step) / SUMS, _sums(self.folder / str(step)))
            self._notes[step] = notes
        except Exception as error:  # Orbax and TensorStore raise whatever they meet: ValueError, RuntimeError, OSError
            for partial in self.folder.glob(f"{step}.*"):
                shutil.rmtree(partial, ignore_errors=True)
            kept = [int(path.name) for path in self.folder.iterdir() if path.name.isdigit() and int(path.name) != step]
            rest = f"the checkpoint of step {max(kept)} is kept" if kept else "there is no earlier one"
            number = _errno(error)
            remedy = "make room" if number is None or number in _FULL else "put that right"
            raise OSError(
                f"cannot write the checkpoint of step {step} to {self.folder} ({_cause(error)}): {rest}; {remedy} "
                f"and give the same command again"
            ) from error

    def restore(self, like: Any, *, step: int | None = None) -> Any:
        """Read a checkpoint.

        Args:
            like: a pytree of arrays of the same structure, shapes and devices.
            step: which; by default the last.

        Returns:
            A pytree like it.

        Raises:
            ValueError: if the checkpoint is damaged or is not like it.
        """
        step = (self.last or 0) if step is None else step
        named, tree = _named(like), jax.tree.structure(like)
        notes = self._notes.get(step)
        if notes is None:
            raise ValueError(f"there is no checkpoint of step {step} in {self.folder}")
        if notes["structure"] != _structure(named):
            raise ValueError(
                f"the checkpoint of step {step} in {self.folder} is of another network, and cannot be read into this "
                "one: choose another folder"
            )
        _check_sums(self.folder, step, last=step == self.last)  # Orbax leaves half-done reads of what is damaged behind
        restored: Any = None
        cause = ""
        try:
            restored = self._manager.restore(step, args=self._ocp.args.StandardRestore(jax.tree.map(_abstract, named)))
            if notes["sha256"] != _digest(restored):
                cause = "its content has changed"
        except MemoryError:
            raise
        except Exception as error:
            cause = _cause(error)
        if cause:
            with _silent():
                gc.collect()
            raise damaged(self.folder, step, cause, last=step == self.last)
        return jax.tree.unflatten(tree, [restored[name] for name in named])

    def waiting(self) -> list[dict[str, float]]:
        """Return the measures that were saved with the last checkpoint.

        Returns:
            What ``save`` was given; nothing where there is no checkpoint.
        """
        return [] if self.last is None else list(self._notes[self.last]["waiting"])

    @property
    def log(self) -> tuple[int, str] | None:
        """How many lines the log had when the last checkpoint was saved, and their hash; None without a checkpoint."""
        return None if self.last is None else (self._notes[self.last]["lines"], self._notes[self.last]["log"])

    def close(self) -> None:
        """Let go of the folder."""
        self._manager.close()


def read_notes(folder: Path) -> dict[int, dict[str, Any]]:
    """Read what stands beside the weights of each checkpoint.

    Args:
        folder: of the checkpoints; it need not exist.

    Returns:
        By step: ``run``, ``waiting``, ``lines``, ``log``, ``scores``, ``structure`` and ``sha256``.

    Raises:
        ValueError: if one of them is damaged, naming the file, and the folder of the checkpoint to remove.
    """
    steps = sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal() and path.name.isascii())
    return {step: _read_notes(folder, step, last=step == steps[-1]) for step in steps}


def _sums(step: Path, *names: str) -> dict[str, str]:
    """Hash files of a checkpoint, all of them by default."""
    paths = [step / name for name in names] or sorted(path for path in step.rglob("*") if path.is_file())
    found = {}
    for path in paths:
        if path.name != SUMS:
            with open(path, "rb") as file:
                found[path.relative_to(step).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _check_sums(folder: Path, step: int, *names: str, last: bool) -> None:
    """Refuse a checkpoint whose files are not those that were written; one that was not hashed passes."""
    place = folder / str(step)
    try:
        noted = runs.parse((place / SUMS).read_bytes())
        if not isinstance(noted, dict):
            raise ValueError("it holds no object")
    except FileNotFoundError:
        return  # killed just before
    except OSError as error:
        raise damaged(folder, step, f"{place / SUMS}: {runs.reason(error)}", last=last) from None
    except ValueError as error:
        raise damaged(folder, step, f"{place / SUMS}: {error}", last=last) from None
    for name in names or noted:
        path = place / name
        try:
            same = _sums(place, name).get(name) == noted.get(name)
        except PermissionError:
            raise ValueError(f"{path} cannot be read (Permission denied): let it be read, to go on") from None
        except (OSError, ValueError) as error:
            raise damaged(folder, step, f"{path}: {runs.reason(error)}", last=last) from None
        if not same:
            empty = "is empty" if not path.stat().st_size else "has changed since it was written"
            raise damaged(folder, step, f"{path} {empty}", last=last)


def _read_notes(folder: Path, step: int, *, last: bool) -> dict[str, Any]:
    _check_sums(folder, step, NOTES, SCORES, last=last)
    read: list[Any] = []
    for name in (NOTES, SCORES):
        path = folder / str(step) / name
        try:
            read.append(runs.parse(path.read_bytes()))
        except PermissionError:
            raise ValueError(f"{path} cannot be read (Permission denied): let it be read, to go on") from None
        except OSError as error:
            raise damaged(folder, step, f"{path}: {runs.reason(error)}", last=last) from None
        except ValueError as error:
            raise damaged(folder, step, f"{path}: {error}", last=last) from None
    notes = read[0].get("custom_metadata") if isinstance(read[0], dict) else None
    kinds = {"run": str, "waiting": list, "lines": int, "log": str, "scores": dict, "structure": str, "sha256": str}
    if not isinstance(notes, dict) or any(not isinstance(notes.get(name), kind) for name, kind in kinds.items()):
        raise damaged(folder, step, f"{folder / str(step) / NOTES} does not hold what was noted", last=last)
    if not all(map(_are_measures, [*notes["waiting"], notes["scores"]])):
        raise damaged(folder, step, f"{folder / str(step) / NOTES} holds what are no measures", last=last)
    if json.dumps(read[1], sort_keys=True) != json.dumps(notes["scores"], sort_keys=True):
        raise damaged(folder, step, f"{folder / str(step) / SCORES} holds other scores than were noted", last=last)
    return notes


def _are_measures(found: Any) -> bool:
    if not isinstance(found, dict):
        return False
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in found.values())


def damaged(folder: Path, step: int, cause: str, *, last: bool) -> ValueError:
    """Return the sentence about a checkpoint that cannot be read.

    Args:
        folder: of the checkpoints.
        step: which it is.
        cause: what is wrong with it.
        last: whether it is the last.

    Returns:
        An error to raise.
    """
    without = "from the one before" if last else "without it"
    return ValueError(
        f"the checkpoint of step {step} in {folder} cannot be read ({cause}): remove the folder {folder / str(step)} "
        f"to go on {without}"
    )


def _structure(named: dict[str, Any]) -> str:
    """Hash names, shapes and dtypes: a checkpoint of another network is whole, and is not to be removed."""
    text = json.dumps([[name, [*map(int, named[name].shape)], str(named[name].dtype)] for name in sorted(named)])
    return hashlib.sha256(text.encode()).hexdigest()


def _named(tree: Any) -> dict[str, Any]:
    """Name every leaf by its path: Orbax then keeps nothing of the types of the containers."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _digest(named: dict[str, Any]) -> str:
    """Hash a state: what holds the weights has no checksum, and would give changed ones back without a word."""
    digest = hashlib.sha256()
    for name in sorted(named):
        leaf = named[name]
        values = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Say nothing of what cannot be raised: Orbax leaves half-done reads behind, which complain when collected."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


def _abstract(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _errno(error: BaseException) -> int | None:
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, OSError) and each.errno is not None:
            return each.errno
        each = each.__cause__ or each.__context__
    return None


def _cause(error: BaseException) -> str:
    """Return what went wrong in a few words: the first error of the chain says most."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    strerror = getattr(error, "strerror", None)
    words = str(strerror) if strerror else " ".join(str(error).split())
    return words[:160] or type(error).__name__
