"""The evaluation: every purifier under every threat model and attack, scored on the true defended model."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxpurify import runs
from jaxpurify.attacks.result import Best
from jaxpurify.evaluation import run_folder
from jaxpurify.evaluation.plan import Cell, Plan
from jaxpurify.evaluation.result import Evaluation
from jaxpurify.evaluation.run_folder import NOT_FINITE, UNRELIABLE, Record, RunFolder
from jaxpurify.evaluation.scoring import Batch
from jaxpurify.evaluation.threat_models import LADDER, ThreatModel
from jaxpurify.files import expanded
from jaxpurify.metrics.norms import check_perturbations
from jaxpurify.models import attribute
from jaxpurify.progress import Progress

EXAMPLES = 6


def evaluate(
    classifier: Any,
    purifiers: Any,
    data: Any,
    *,
    attacks: Any = None,
    threat_models: str | ThreatModel | Sequence[str | ThreatModel] = LADDER,
    key: Any = None,
    run: Any = None,
    batch_size: Any = 128,
    devices: Any = None,
    epsilons: Sequence[float] = (),
    noise_draws: int = 10_000,
    progress: bool | None = None,
) -> Evaluation:
    """Attack a classifier behind purifiers in every threat model asked for, and score what comes out.

    Every image shown to another model than the attacked comes from a full budget. Random models are scored on 20 fresh
    keys that no search saw; the worst attack of an image is chosen on 20 others. Gradient attacks are not evaluated on
    a target whose gradient is zero; where gradients mislead, or attackers who know more leave more standing, ``flags``
    say so, and the worst case reads "at most".

    With ``run``, every batch is on disk as soon as it is done, and the same call takes a killed run up where it was
    left, to the same records. A folder that holds an evaluation with other arguments, weights or data is refused, and
    so is one that another process is writing to. Weights are compared wherever they are: leaves of a JAX model, a
    PyTorch module's parameters and buffers, what a function closes over or reads from global variables. Where an object
    does not show what it holds, the logits of the first batch are compared, exactly on the CPU.

    Args:
        classifier: images to logits; anything that ``jaxpurify.classifier`` takes.
        purifiers: purifiers by name, or one. The undefended classifier is always evaluated beside them, as ``none``
            (unless there is an ``Identity`` among them).
        data: an object with ``images`` and ``labels``, or a pair of arrays.
        attacks: an attack, attacks, or attacks by name; PGD with 40 steps at 8/255 by default. An epsilon may be an
            array of one size per image.
        threat_models: names among ``noise``, ``blind``, ``bpda``, ``substitute`` and ``full`` (all by default), or
            ``ThreatModel`` objects.
        key: one typed key; image i of the data gets it with i folded in. ``jax.random.key(0)`` by default.
        run: a folder for the run, or None to keep nothing.
        batch_size: images in each device's program; the last batch is filled up.
        devices: None (the default one), ``"all"``, a number, or devices. Results do not depend on it at one batch size.
        epsilons: further sizes of every attack, for the figure of robust accuracy against ε; nothing new is compiled.
        noise_draws: draws of the threat model ``noise``.
        progress: whether to show a progress bar; by default where the terminal can.

    Returns:
        The evaluation.

    Raises:
        TypeError: on wrong types, raw keys included.
        ValueError: on bad arguments, and on models that couple images or draw without a key, in one sentence, before
            anything is written.
    """
    if run is not None:
        runs.check_unclaimed(expanded(run))
    plan = Plan(
        classifier,
        purifiers,
        data,
        attacks=attacks,
        threat_models=threat_models,
        key=key,
        batch_size=batch_size,
        devices=devices,
        epsilons=epsilons,
        noise_draws=noise_draws,
    )
    with contextlib.nullcontext() if run is None else RunFolder(run, plan.config) as folder:
        session = _Session(plan, folder)
        with Progress("evaluating", plan.calls(), enabled=progress) as bar:
            records = session.records(bar)
        evaluation = Evaluation(records=records, config=plan.config, run=None if folder is None else folder.path)
        if folder is not None:
            folder.write_records(records)
            evaluation.write()
    return evaluation


class _Found(NamedTuple):
    """What a search found, on the host, padding removed."""

    best: Best
    distance: np.ndarray


class _Session:
    """A plan being carried out, in a folder or in memory alone."""

    def __init__(self, plan: Plan, folder: RunFolder | None):
        self.plan, self.folder, self.scorer, self.where = plan, folder, plan.scorer, plan.where

    def records(self, bar: Progress) -> list[Record]:
        """Compute, or read from the run folder, all records in order."""
        records: dict[tuple[int, ...], list[Record]] = {}
        for number in range(self.plan.batches):
            batch = self.plan.batch(number)
            for place, name in enumerate(self.plan.purifiers):
                clean = functools.partial(self._clean, name, batch)
                records[0, place, number] = self._once(("clean", name, number), clean)
            for place, cell in enumerate(self.plan.cells, 1):
                records |= {(place, *where): found for where, found in self._cell(cell, batch, bar).items()}
            # Powers of two, because a long run would spend its time on writing all records again and again.
            if self.folder is not None and number & (number - 1) == 0:
                self.folder.write_records(_in_order(records))
        return _in_order(records)

    def _cell(self, cell: Cell, batch: Batch, bar: Progress) -> dict[tuple[int, int], list[Record]]:
        """Attack and score one cell of one batch, by place of the purifier and number of the batch."""
        records = {}
        for place, name in enumerate(self.plan.purifiers):
            if not self.plan.tries(cell, name):
                continue
            names = (cell.threat.name, name, cell.attack, run_folder.format_value(cell.epsilon), batch.number)
            attacked = functools.partial(self._attacked, cell, name, batch, bar)
            records[place, batch.number] = self._once(
                names, attacked, skipped=functools.partial(bar.advance, self.plan.calls_of(cell, name))
            )
        return records

    def _once(self, names: tuple, compute: Callable[[], list[Record]], skipped: Any = None) -> list[Record]:
        """Return a part's records from the run folder, or compute and write them."""
        if self.folder is None:
            return [run_folder.rounded(record) for record in compute()]
        path = self.folder.part(*names)
        records = self.folder.read_part(path)
        if records is None:
            records = [run_folder.rounded(record) for record in compute()]
            self.folder.write_part(path, records)
        elif skipped is not None:
            skipped()
        return records

    def _search(self, cell: Cell, name: str, batch: Batch, bar: Progress) -> _Found:
        """Return what an attack finds, computed once for all purifiers and threat models whose target is one object."""
        target = self.plan.targets[name, cell.threat.name]
        known = cell.known(target)
        if known in batch.found:
            bar.advance(self.plan.calls_of(cell, name))
            return batch.found[known]
        problem = cell.search.sized(batch.problem, batch.filled_rows)
        best, _ = cell.search.search(target, problem, where=self.where, progress=bar.advance)
        best = jax.tree.map(lambda leaf: np.asarray(leaf)[: len(batch)], best)
        distance = check_perturbations(batch.clean, best.images, norm=cell.search.norm, epsilon=cell.sizes(batch.rows))
        found = _Found(best, distance)
        users = self.plan.users(cell, target)
        if len(users) > 1:
            batch.found[known] = found
        if self.folder is not None and not cell.curve:
            # Named after the first of them, so that a run taken up again finds the same name.
            path = f"adversarial/{run_folder.unique_slug(*users[0], batch.number)}"
            self.folder.save_images(path, images=best.images, rows=batch.rows, used_by=np.array(users))
        return found

    def _clean(self, name: str, batch: Batch) -> list[Record]:
        about = {"threat_model": "clean", "attack": "none", "norm": "", "epsilon": 0.0, "distance": 0.0}
        records = self.scorer.score(name, batch, batch.clean)
        return [record | about | {"forwards": 0, "backwards": 0} for record in records]

    def _attacked(self, cell: Cell, name: str, batch: Batch, bar: Progress) -> list[Record]:
        found = self._search(cell, name, batch, bar)
        success = np.asarray(found.best.success)
        lucky = attribute(self.plan.targets[name, cell.threat.name], "random")  # such a success proves nothing
        proved = np.asarray(found.best.finite) | (success & (not lucky))
        records = self.scorer.score(name, batch, found.best.images, finite=proved)
        if self.folder is not None and batch.number == 0 and not cell.curve:
            self._save_example(self.folder, cell, name, batch, np.asarray(found.best.images))
        about = {
            "threat_model": cell.threat.name,
            "attack": cell.attack,
            "norm": cell.search.norm,
        }
        # A gradient of zero where the search came to an end: such an image stands, and it says little.
        blind = ~success & ~np.asarray(found.best.steep)
        sizes = cell.sizes(batch.rows)
        for number, record in enumerate(records):
            i = number % len(batch)
            record.update(about, epsilon=float(sizes[i]), distance=float(found.distance[i]))
            record.update({name: float(getattr(found.best, name)[i]) for name in ("loss", "margin")})
            record.update({name: int(getattr(found.best, name)[i]) for name in ("forwards", "backwards")})
            if record["status"] != NOT_FINITE:
                record["status"] = UNRELIABLE if blind[i] and record["correct"] > 0 else int(success[i])
        return records

    def _save_example(self, folder: RunFolder, cell: Cell, name: str, batch: Batch, attacked: np.ndarray) -> None:
        """Keep a few images of each cell for the figures."""
        bare = self.plan.config["undefended"]
        before, after = (self.scorer.predictions(who, batch, attacked) for who in (bare, name))
        names = (name, cell.threat.name, cell.attack)
        folder.save_images(
            f"examples/{run_folder.unique_slug(*names)}",
            clean=batch.clean[:EXAMPLES],
            attacked=attacked[:EXAMPLES],
            purified=self.scorer.purified(name, batch, attacked)[:EXAMPLES],
            labels=batch.labels[:EXAMPLES],
            before=before[:EXAMPLES],
            after=after[:EXAMPLES],
            names=np.array(names),
        )


def _in_order(records: dict[tuple[int, ...], list[Record]]) -> list[Record]:
    """Return records by cell, purifier and image, in the order in which they are read."""
    return [record for place in sorted(records) for record in records[place]]
