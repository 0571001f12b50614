"""Checkpoints of a training run, by Orbax: whole or not at all, the last few and the best."""

import contextlib
import gc
import hashlib
import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify.files import expanded


class Checkpoints:
    """Keep the last checkpoints of a run, and the best.

    Args:
        folder: where; made if it is not there. What an interrupted write left there is removed.
        keep: how many of the last.
        metric: the name of the score that says which is best.
        greater_is_better: whether a larger score is better.
    """

    def __init__(self, folder: str | os.PathLike, *, keep: int, metric: str, greater_is_better: bool):
        import orbax.checkpoint as ocp

        self.folder, self.metric = expanded(folder).resolve(), metric
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
        self._manager = ocp.CheckpointManager(self.folder, options=options)
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
        self, step: int, state: Any, scores: dict[str, float] | None, *, waiting: Sequence[dict[str, float]] = ()
    ) -> None:
        """Write a checkpoint.

        Args:
            step: how many steps are done.
            state: any pytree of arrays.
            scores: what the network reached on images held out, by name; None if it was not scored.
            waiting: measures of the steps since the last line of the log.

        Raises:
            OSError: if it cannot be written: a full disk, say. What was there before is kept.
        """
        named = _named(state)
        try:
            self._manager.save(
                step,
                args=self._ocp.args.StandardSave(named),
                metrics=scores or {},
                custom_metadata={"waiting": list(waiting), "sha256": _digest(named)},
            )
            self._manager.wait_until_finished()
        except Exception as error:  # Orbax and TensorStore raise whatever they meet: ValueError, RuntimeError, OSError
            for partial in self.folder.glob(f"{step}.*"):
                shutil.rmtree(partial, ignore_errors=True)
            kept = [int(path.name) for path in self.folder.iterdir() if path.name.isdigit() and int(path.name) != step]
            rest = f"the checkpoint of step {max(kept)} is kept" if kept else "there is no earlier one"
            raise OSError(
                f"cannot write the checkpoint of step {step} to {self.folder} ({_cause(error)}): {rest}; make room "
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
        abstract = jax.tree.map(_abstract, named)
        restored: Any = None
        cause = ""
        try:
            restored = self._manager.restore(step, args=self._ocp.args.StandardRestore(abstract))
            known = self._noted(step).get("sha256")
            if known is not None and known != _digest(restored):
                cause = "its content has changed"
        except Exception as error:
            cause = _cause(error)
        if cause:
            with _silent():
                gc.collect()
            raise ValueError(
                f"the checkpoint of step {step} in {self.folder} cannot be read ({cause}): remove the folder "
                f"{self.folder / str(step)} to go on from the one before"
            )
        found = [restored[name] for name in named]
        if any(leaf.shape != np.shape(old) for leaf, old in zip(found, named.values(), strict=True)):
            raise ValueError(f"the checkpoint of step {step} in {self.folder} is of another network")
        return jax.tree.unflatten(tree, found)

    def waiting(self) -> list[dict[str, float]]:
        """Return the measures that were saved with the last checkpoint.

        Returns:
            What ``save`` was given; nothing where there is no checkpoint.
        """
        return [] if self.last is None else list(self._noted(self.last).get("waiting", []))

    def _noted(self, step: int) -> dict[str, Any]:
        return getattr(self._manager.metadata(step), "custom_metadata", None) or {}

    def close(self) -> None:
        """Let go of the folder."""
        self._manager.close()


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


def _cause(error: BaseException) -> str:
    """Return what went wrong in a few words: the first error of the chain says most."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    strerror = getattr(error, "strerror", None)
    words = str(strerror) if strerror else " ".join(str(error).split())
    return words[:160] or type(error).__name__
