"""DeepFool: step to the nearest linearised boundary until the class changes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify.attacks.attack import advance, distinct
from jaxpurify.attacks.batches import bucket_sizes, take
from jaxpurify.attacks.checks import check_candidates, check_counts, check_size
from jaxpurify.attacks.hyperplane import likeliest_others, nearest_boundary, shortest_step
from jaxpurify.attacks.minimal_norm import MinimalNormAttack
from jaxpurify.attacks.result import Best, Problem, blank_best
from jaxpurify.parallel import Placement
from jaxpurify.pytrees import PerImage, Scalar, pytree_dataclass, static


class State(NamedTuple):
    """The search, every leaf with a leading batch axis.

    Attributes:
        best: the image found.
        loss: minus its distance.
        current: the iterate to evaluate next.
        moved: the sum of the steps, without overshoot.
        stopped: whether an iterate has changed its class, within epsilon or not.
    """

    best: Best
    loss: Any
    current: Any
    moved: Any
    stopped: Any


@pytree_dataclass
class DeepFool(MinimalNormAttack):
    """Step to the nearest of the linearised decision boundaries, within the box, until the class changes.

    All images step at once, and those that have arrived leave the work.

    Args:
        epsilon: the largest distance that counts as success, or None for any.
        overshoot: by how much the sum of all steps is lengthened to get beyond the boundary.
        norm: ``"linf"`` or ``"l2"``: in which the steps are shortest.
        steps: the largest number of steps.
        candidates: how many of the likeliest classes are looked at, the image's own among them; None for all.
        trace: whether the result keeps the loss at each step.

    Source: Moosavi-Dezfooli et al. 2016 (arXiv 1511.04599), algorithm 2; ten candidates are the authors' own setting.
    Ours: the step is the shortest of those that stay in [0, 1] (a step clipped afterwards may never reach the
    boundary), and candidates are the likeliest classes at the iterate and not at the clean image.
    """

    epsilon: PerImage | None = None
    overshoot: Scalar = 0.02
    norm: str = static("l2")
    steps: int = static(50)
    candidates: int | None = static(10)
    trace: bool = static(False)
    restarts = 1

    def check(self):
        """Refuse counts and sizes that cannot be meant."""
        super().check()
        check_counts(self, "steps")
        check_candidates(self.candidates, least=2)
        check_size("overshoot", self.overshoot)

    def prepare(self, target: Any, images: Any, labels: Any, key: Any, targets: Any) -> Problem:
        """Check the arguments of a call; the method knows no targets."""
        if targets is not None:
            raise ValueError("DeepFool goes to the nearest class, got targets: leave them out, or use FAB")
        return super().prepare(target, images, labels, key, targets)

    @property
    def evaluations(self) -> int:
        """The clean image and the point after each step."""
        return self.steps + 1

    def blank(self, problem: Problem) -> State:
        """Return a state of the right structure."""
        images = problem.images
        return State(
            best=blank_best(images),
            loss=jnp.zeros(images.shape[:1], images.dtype),
            current=jnp.zeros_like(images),
            moved=jnp.zeros_like(images),
            stopped=jnp.zeros(images.shape[:1], bool),
        )

    def advance(self, target: Any, problem: Problem, state: State, restart: Any, step: Any) -> State:
        """Linearise at the current iterate and step to the nearest boundary; stand still where the class changed."""
        clean, labels = problem.images, problem.labels
        current = jnp.where(step == 0, clean, state.current)
        moved = jnp.where(step == 0, jnp.zeros_like(clean), state.moved)
        stopped = state.stopped & (step > 0)

        def choose(outputs):
            classes = outputs.shape[1]
            return labels, likeliest_others(outputs, labels, count=min(self.candidates or classes, classes) - 1)

        found = nearest_boundary(target, current, choose, norm=self.norm)
        answer = self.answer(found.outputs, problem)
        working = (~stopped).astype(jnp.int32)
        best = self.keep(
            state.best,
            problem,
            current,
            answer,
            finite=found.finite | stopped,
            steep=found.steep,
            forwards=working,
            backwards=working * found.backwards,
        )

        def towards(point, gap, normal):
            return shortest_step(point, normal, gap, norm=self.norm)

        still = (stopped | answer.success)[:, None, None, None]
        moved = moved + jnp.where(still, 0, jax.vmap(towards)(current, found.gap, found.normal))
        further = jnp.clip(clean + (1 + jnp.asarray(self.overshoot, clean.dtype)) * moved, 0, 1)
        return State(
            best=best,
            loss=best.loss,
            current=jnp.where(still, current, further),
            moved=moved,
            stopped=stopped | answer.success,
        )

    def finished(self, state: State) -> Any:
        """Return which images no further call changes, shape ``(batch,)``."""
        return state.stopped

    def search(self, target: Any, problem: Problem, *, where: Placement, progress: Any = None) -> tuple[Best, Any]:
        """Drive the search from the host; images that have arrived leave, and the rest is compacted."""
        problem = self.sized(problem)
        attack, target = where.everywhere((self.canonical(problem.images.dtype), target))
        run = where.compile(advance, per_image=(False, False, True, True, False, False), donate=(3,))
        count = problem.images.shape[0]
        sizes = bucket_sizes(count, where.count) if count % where.count == 0 else (count,)
        whole = jax.tree.map(np.array, blank_best(np.asarray(problem.images)))
        rows, trace = np.arange(count), np.full((count, self.evaluations), -np.inf, problem.images.dtype)
        part, state = where.put(problem), where.put(distinct(attack.blank(problem)))
        for step in range(self.evaluations):
            state = run(attack, target, part, state, np.uint32(0), np.uint32(step))
            if progress is not None:
                progress()
            if self.trace:
                trace[rows, step:] = np.asarray(state.loss)[: len(rows), None]
            left = np.flatnonzero(~np.asarray(attack.finished(state))[: len(rows)])
            size = min(size for size in sizes if size >= len(left))
            if not len(left):
                break
            if size == len(state.loss):
                continue
            _write(whole, rows, state.best)
            state, rows = where.put(take(state, np.resize(left, size))), rows[left]
            part = where.put(take(problem, np.resize(rows, size)))
        _write(whole, rows, state.best)
        return self.settled(where.put(whole), where.put(problem)), trace if self.trace else None


def _write(whole: Best, rows: np.ndarray, best: Best) -> None:
    """Put what was found for the first images of a batch in their rows."""
    for into, leaf in zip(whole, best, strict=True):
        into[rows] = np.asarray(leaf)[: len(rows)]
