"""The one training loop: any task, deterministic, resumable to the bit."""

import concurrent.futures
import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax import Array

from jaxpurify import parallel, runs
from jaxpurify.checks import check_count, kind
from jaxpurify.classifiers import Function
from jaxpurify.evaluation.identity import describe
from jaxpurify.files import expanded
from jaxpurify.keys import check_single
from jaxpurify.networks import weights
from jaxpurify.progress import Progress
from jaxpurify.training import folder
from jaxpurify.training.checkpoints import Checkpoints
from jaxpurify.training.interruption import Interruption
from jaxpurify.training.journal import Journal
from jaxpurify.training.programs import Programs, State
from jaxpurify.training.recipe import Recipe
from jaxpurify.training.sampling import CROPS, HELD_OUT, generator, rows, seed_of
from jaxpurify.training.task import Batch, Task

AHEAD = 3  # batches that are cut and sent to the devices before they are needed
EARLY = (1, 10, 100)  # steps whose samples are drawn besides those at every score
SHOWN = 4  # examples of a figure of samples
SCORED = 128  # examples held out that are scored, at most


class Trained(NamedTuple):
    """What a training run made.

    Args:
        module: the finished network, in evaluation mode.
        function: the same as a pytree callable, for purifiers.
        records: the lines of ``metrics.jsonl``.
        run: the run folder.
    """

    module: nnx.Module
    function: Function
    records: list[dict[str, Any]]
    run: Path


def fit(
    task: Any,
    data: Any,
    *,
    steps: Any,
    run: str | os.PathLike,
    key: Array,
    recipe: Any = None,
    held_out: Any = None,
    devices: Any = None,
    progress: bool | None = None,
) -> Trained:
    """Train a network; the same call goes on where a run that was killed stopped, and gives what an unbroken one gives.

    The run folder receives ``config.json``, ``metrics.jsonl``, ``tensorboard/``, ``curve.png``, ``samples/``,
    ``checkpoints/`` and, at the end, ``weights.safetensors`` (the averaged weights of the finished network) and, where
    an earlier checkpoint had a better score, ``best.safetensors``.

    Args:
        task: what is trained.
        data: what it is trained on: ``"photos"``, a folder, an ``.npz`` file, the name of a data set, a ``Dataset`` or
            arrays, as the task takes it.
        steps: number of optimiser steps.
        run: the run folder.
        key: one typed key, from which weights, order, crops and noise follow.
        recipe: batch, optimiser, schedule, precision, and what is kept when.
        held_out: data to score on (of a name, the test split); by default the recipe's share of ``data``, which is
            then not trained on. Of more than 128 examples, 128 are drawn once.
        devices: None (one device), ``"all"``, a number, or devices: the batch is divided over them.
        progress: whether to show a bar; by default where standard error is a terminal.

    Returns:
        The finished network and the records.

    Raises:
        OSError: if a checkpoint cannot be written; the last one is kept.
        ValueError: if the data do not fit the task, the folder holds another run, a checkpoint is damaged, or the loss
            is no longer finite.

    Example:
        >>> import jax, jaxpurify as jp, tempfile
        >>> task = jp.training.SuperResolution(features=4, blocks=1, patch=8)
        >>> recipe = jp.training.Recipe(batch_size=2)
        >>> folder = tempfile.TemporaryDirectory()
        >>> trained = jp.training.fit(task, "photos", steps=2, run=folder.name, key=jax.random.key(0), recipe=recipe)
        >>> trained.function(jax.numpy.zeros((1, 8, 8, 3))).shape
        (1, 16, 16, 3)
    """
    options: dict[str, Any] = {"held_out": held_out, "devices": devices, "progress": progress}
    return Run(task, data, steps=steps, run=run, key=key, recipe=recipe, **options).finish()


class Run:
    """Read the data of a training, and make its folder or check that it is the same training's.

    Its arguments are those of ``fit``.

    Attributes:
        examples: the rows that are trained on.
        scored: the rows that are scored on.
    """

    def __init__(
        self,
        task: Any,
        data: Any,
        *,
        steps: Any,
        run: str | os.PathLike,
        key: Array,
        recipe: Any = None,
        held_out: Any = None,
        devices: Any = None,
        progress: bool | None = None,
    ):
        check_single(key)
        recipe = Recipe() if recipe is None else recipe
        steps = check_count(steps, name="steps")
        if not isinstance(task, Task):
            raise TypeError(f"task must be a jaxpurify.training.Task such as BlindSpot(), got {kind(task)}")
        if not isinstance(recipe, Recipe):
            raise TypeError(f"recipe must be a jaxpurify.training.Recipe(...), got {kind(recipe)}")
        self.task, self.steps, self.run, self.key, self.recipe = task, steps, expanded(run), key, recipe
        self.progress, self.seed = progress, seed_of(key)
        self.placement = parallel.placement(devices)
        part = recipe.batch_size // recipe.accumulate
        if part % self.placement.count:
            raise ValueError(
                f"a part of the batch has {part} examples, which {self.placement.count} devices cannot share: choose a "
                f"batch_size that is a multiple of {self.placement.count * recipe.accumulate}"
            )
        runs.check_unclaimed(self.run)
        self.source = task.prepare(data)
        self.examples, self.scored, self.scored_source = self._split(held_out)
        self._begin(data)
        try:
            self.programs = Programs(task, recipe, steps=steps, rngs=nnx.Rngs(key), placement=self.placement)
        except BaseException:
            self._lock.close()
            raise

    def _split(self, held_out: Any) -> tuple[np.ndarray, np.ndarray, Any]:
        """Return the rows to train on, those to score on, and where the latter are."""
        total = len(self.source)
        if not total:
            raise ValueError("data must hold at least one example to train on, got none")
        if held_out is not None:
            source = self.task.prepare(held_out, split="test")
            if not len(source):
                raise ValueError("held_out must hold at least one example to score on, got none")
            chosen = generator(self.seed, HELD_OUT).permutation(len(source))[:SCORED]
            return np.arange(total), np.sort(chosen), source
        groups = getattr(self.source, "groups", np.arange(total))
        order = generator(self.seed, HELD_OUT).permutation(np.unique(groups))
        share = self.recipe.held_out
        count = max(round(share * len(order)), int(share > 0 and len(order) > 1))
        if count == len(order):
            raise ValueError(f"held_out of {share} leaves none of {count} examples to train on: lower it")
        kept = np.isin(groups, order[count:])
        apart = np.concatenate([np.flatnonzero(groups == group) for group in order[:count]] or [np.arange(0)])
        return np.flatnonzero(kept), apart[:SCORED], self.source

    def _begin(self, data: Any) -> None:
        """Make the run folder and claim it, or refuse one that holds another run."""
        sources = [(self.source, self.examples), (self.scored_source, self.scored)]
        arguments = {
            "task": {"name": type(self.task).__name__} | _described(self.task),
            "recipe": dataclasses.asdict(self.recipe),
            "steps": self.steps,
            "key": list(self.seed),
            "data": {"examples": len(self.source), "sha256": folder.hash_data(self.task, sources)},
        }
        name = str(data) if isinstance(data, str | os.PathLike) else type(data).__name__
        self._lock, self.identity = folder.claim(self.run, arguments, data=name)

    def finish(self) -> Trained:
        """Train from the last checkpoint to the end.

        Returns:
            The finished network and the records.
        """
        # Optax's steps do not pass where promotion is strict.
        with self._lock, jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return self._finish()

    def _finish(self) -> Trained:
        state = self.programs.start
        checkpoints = Checkpoints(
            self.run / "checkpoints",
            keep=self.recipe.keep,
            metric=self.task.metric,
            greater_is_better=self.task.greater_is_better,
            identity=self.identity,
        )
        try:
            if checkpoints.last is not None:
                state = checkpoints.restore(state)
            with Journal(self.run, step=int(state.step), written=checkpoints.log) as journal:
                state = self._steps(state, checkpoints, journal)
                journal.curve()
                return self._trained(state, journal, checkpoints)
        finally:
            checkpoints.close()

    def _steps(self, state: State, checkpoints: Checkpoints, journal: Journal) -> State:
        done, recipe = int(state.step), self.recipe
        saved, since, first = done, time.perf_counter(), done
        # Measures saved in the middle of a line of the log are counted in it, and their time is not.
        waiting: list[dict[str, Any]] = list(checkpoints.waiting())
        title = f"training {self.task.__class__.__name__}"
        with (
            Progress(title, self.steps, enabled=self.progress) as bar,
            self._ahead(done) as batches,
            Interruption() as interruption,
        ):
            bar.advance(done)
            for parts, keys in batches:
                state, measures = self.programs.advance(state, parts, keys)
                done += 1
                waiting.append(measures)
                bar.advance()
                last, scores = done == self.steps, None
                scored = done % recipe.score_every == 0 or last
                if done % recipe.log_every == 0 or last:
                    means = _means(self._measured(waiting, done, saved))
                    rate = (done - first) * recipe.batch_size / (time.perf_counter() - since)
                    step_size = float(recipe.step_sizes(self.steps)(done - 1))
                    journal.write("train", done, means | {"step_size": step_size, "images_per_second": rate})
                    bar.describe(f"{title}: {shown(means)}, {rate:.0f} images/s")
                    waiting = []
                if scored:
                    scores = self._score(state, done, journal)
                    journal.curve()
                if scored or done in EARLY:
                    journal.samples(done, self._samples(state))
                if done % recipe.save_every == 0 or last or interruption.asked:
                    waiting = self._measured(waiting, done, saved)
                    journal.sync()
                    checkpoints.save(done, state, scores, waiting=waiting, log=journal.digest())
                    saved = done
                if interruption.asked and not last:
                    raise KeyboardInterrupt
                if not waiting:
                    since, first = time.perf_counter(), done
        return state

    def _batch(self, step: int) -> tuple[list[Batch], list[Array]]:
        """Cut the batch of a step and send it to the devices."""
        size, count = self.recipe.batch_size, self.recipe.accumulate
        chosen = self.examples[rows(self.seed, first=step * size, count=size, total=len(self.examples))]
        batch = self.task.batch(self.source, chosen, generator(self.seed, CROPS, step))
        part = size // count
        parts = [
            self.placement.put({name: values[first : first + part] for name, values in batch.items()})
            for first in range(0, size, part)
        ]
        own = jax.random.fold_in(self.key, step)
        return parts, [jax.random.fold_in(own, number) for number in range(count)]

    def _ahead(self, first: int) -> "_Ahead":
        return _Ahead(self._batch, range(first, self.steps))

    def _measured(self, waiting: list[dict[str, Any]], done: int, saved: int) -> list[dict[str, float]]:
        """Fetch the measures of the last steps, and refuse a loss that is no number."""
        fetched = [{name: float(value) for name, value in each.items()} for each in jax.device_get(waiting)]
        for number, measures in enumerate(fetched):
            if not (np.isfinite(measures["loss"]) and np.isfinite(measures["gradient_norm"])):
                step = done - len(fetched) + number + 1
                kept = f"the checkpoint of step {saved} is kept in {self.run}" if saved else "no checkpoint was written"
                raise ValueError(
                    f"the loss or its gradient is no longer finite at step {step}: choose a smaller learning_rate, or "
                    f"a smaller clip; {kept}"
                )
        return fetched

    def _score(self, state: State, done: int, journal: Journal) -> dict[str, float] | None:
        if not len(self.scored):
            return None
        size, found = min(self.recipe.batch_size, len(self.scored)), []
        size = -(-size // self.placement.count) * self.placement.count
        for first in range(0, len(self.scored), size):
            which = self.scored[first : first + size]
            filled = np.concatenate([which, np.full(size - len(which), which[0], which.dtype)])
            batch = self.task.scored_batch(self.scored_source, filled, generator(self.seed, HELD_OUT, first))
            key = jax.random.fold_in(jax.random.fold_in(self.key, self.steps), first)
            scores = self.programs.evaluated(self.programs.score, state, self.placement.put(batch), key)
            found.append({name: np.asarray(values)[: len(which)] for name, values in scores.items()})
        means = {name: float(np.mean(np.concatenate([each[name] for each in found]))) for name in found[0]}
        journal.write("held out", done, means)
        return means

    def _samples(self, state: State) -> dict[str, np.ndarray]:
        source, which = (self.scored_source, self.scored) if len(self.scored) else (self.source, self.examples)
        which = np.resize(which, SHOWN)
        batch = self.task.scored_batch(source, which, generator(self.seed, HELD_OUT, 0))
        key = jax.random.fold_in(self.key, self.steps)
        panels = self.programs.evaluated(self.programs.panels, state, jax.device_put(batch), key)
        return {title: np.asarray(images) for title, images in panels.items()}

    def _finished(self, state: State, file: str) -> nnx.Module:
        """Return the finished network of a state, and write its weights."""
        module = self.task.finished(self.programs.module(state))
        module.eval()
        weights.save(module, self.run / file, metadata={"task": type(self.task).__name__})
        return module

    def _trained(self, state: State, journal: Journal, checkpoints: Checkpoints) -> Trained:
        module = self._finished(state, "weights.safetensors")
        best = checkpoints.best
        if best is not None and best != int(state.step):
            self._finished(checkpoints.restore(state, step=best), "best.safetensors")
        return Trained(module, self.task.function(module), journal.records, self.run)


class _Ahead:
    """Compute the next few batches while the devices are busy with this one; a context manager and an iterator."""

    def __init__(self, batch: Any, steps: range):
        self._batch, self._steps = batch, steps
        self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="batches")

    def __enter__(self) -> Iterator[Any]:
        return self._batches()

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _batches(self) -> Iterator[Any]:
        waiting = [self._pool.submit(self._batch, step) for step in self._steps[:AHEAD]]
        for step in self._steps:
            current = waiting.pop(0)
            if step + AHEAD in self._steps:
                waiting.append(self._pool.submit(self._batch, step + AHEAD))
            yield current.result()


def _described(task: Task) -> dict[str, Any]:
    """Return the fields of a task as JSON can hold them, the same in every process."""
    fields: Any = dataclasses.fields(task) if dataclasses.is_dataclass(task) else ()
    values = {field.name: getattr(task, field.name) for field in fields}
    return {
        name: value if isinstance(value, int | float | str | None) else _text(value) for name, value in values.items()
    }


def _text(value: Any) -> str:
    # A purifier may hold arrays, of which `repr` shows a part only: they enter as hashes.
    return repr(value) if isinstance(value, tuple) else describe(value)


def _means(measured: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([measures[name] for measures in measured])) for name in measured[0]}


def shown(means: dict[str, Any]) -> str:
    """Return measures in a few words.

    Args:
        means: the loss and other measures by name.

    Returns:
        The loss, and the PSNR or accuracy where they are measured.
    """
    words = [f"loss {means['loss']:.4f}"]
    words += [f"PSNR {means['psnr']:.2f} dB"] if "psnr" in means else []
    words += [f"accuracy {means['accuracy']:.1%}"] if "accuracy" in means else []
    return ", ".join(words)
