"""Gradients taken at the decision boundary, where even a saturated model has some."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpurify import keys as _keys
from jaxpurify.attacks.checks import check_counts
from jaxpurify.attacks.hyperplane import likeliest_others, nearest_boundary, shortest_step
from jaxpurify.attacks.loops import loop
from jaxpurify.attacks.minimal_norm import MinimalNormAttack
from jaxpurify.attacks.result import Answer, Best, Problem, blank_best, choose
from jaxpurify.pytrees import PerImage, pytree_dataclass, static

STARTS = 16
HALVINGS = 16
OVERSHOOT = 1.05


class State(NamedTuple):
    """The nearest image so far, minus its distance, and the point at the boundary; leaves have a leading batch axis."""

    best: Best
    loss: Any
    point: Any
    crossed: Any


@pytree_dataclass
class BoundaryProjection(MinimalNormAttack):
    """Walk along the decision boundary to its point nearest to the clean image, by the gradients found there.

    Every step linearises the boundary at a point on it, projects the clean image onto that plane within [0, 1], goes
    as far towards the projection as the target stays fooled, and returns to the boundary by bisection. Gradients that
    vanish at the clean image, as behind a saturated softmax, do not at the boundary.

    Args:
        epsilon: the largest distance that counts, or None for the nearest image at any distance.
        norm: ``"linf"`` or ``"l2"``.
        steps: number of steps; each costs one backward and 21 forward passes, and the start 33 forward passes.
        restarts: independent searches, from other starts; the nearest image of all is kept.
        trace: whether the result keeps the loss, minus the distance, at each step.

    Source: after Brendel et al. 2019 (arXiv 1907.01003), who take the step by a trust-region programme; projection and
    overshoot of 5 % as in FAB (Croce and Hein 2020, arXiv 1907.02044). The start is the first image that fools the
    target of those that blend the image, more and more, with uniform noise, with black and white noise, with its own
    negative, and with black or white: our choice, after HopSkipJump's uniform noise.
    """

    epsilon: PerImage | None = None
    norm: str = static("linf")
    steps: int = static(50)
    restarts: int = static(1)
    trace: bool = static(False)

    def check(self):
        """Refuse other norms and counts below one."""
        super().check()
        check_counts(self, "steps")

    @property
    def evaluations(self) -> int:
        """The start, and each step."""
        return self.steps + 1

    @property
    def needs_key(self) -> bool:
        """Some of the starts are noise."""
        return True

    def prepare(self, target: Any, images: Any, labels: Any, key: Any, targets: Any) -> Problem:
        """Check the arguments of a call; target classes are refused."""
        if targets is not None:
            raise ValueError("BoundaryProjection is untargeted, got targets: use FAB or CarliniWagner")
        return super().prepare(target, images, labels, key, targets)

    def blank(self, problem: Problem) -> State:
        """Return a state of the right structure."""
        count, dtype = problem.images.shape[0], problem.images.dtype
        crossed = jnp.zeros((count,), bool)
        return State(blank_best(problem.images), jnp.zeros((count,), dtype), jnp.array(problem.images), crossed)

    def advance(self, target: Any, problem: Problem, state: State, restart: Any, step: Any) -> State:
        """Find a point on the boundary at step 0; afterwards walk along it."""
        search = _Search(self, target, problem)
        return jax.lax.cond(step == 0, lambda: search.start(state, restart), lambda: search.walk(state))


class _Search:
    """One call's view of the problem."""

    def __init__(self, attack: BoundaryProjection, target: Any, problem: Problem):
        self.attack, self.target, self.problem = attack, target, problem

    def ask(self, best: Best, images: Any) -> tuple[Best, Answer]:
        """Ask the target about images and keep the nearest."""
        answer = self.attack.answer(self.target(images, None), self.problem)
        return self.attack.keep(best, self.problem, images, answer, steep=False), answer

    def start(self, state: State, restart: Any) -> State:
        """Look for an image that fools the target, and go back to the boundary from there."""
        clean = self.problem.images
        keys = _keys.stream(self.problem.keys, "start", restart=restart)
        best, answer = self.ask(state.best, clean)

        def begin(number, carried):
            best, point, crossed = carried
            keys_here = _keys.fold(keys, number)
            drawn = jax.vmap(lambda key: jax.random.uniform(key, clean.shape[1:], clean.dtype))(keys_here)
            flat = jnp.ones_like(clean) * (number // 4 % 2).astype(clean.dtype)
            kinds = (drawn, jnp.round(drawn), 1 - clean, flat)
            share = ((number // 4).astype(clean.dtype) + 1) * 4 / STARTS
            blended = clean + share * (jax.lax.select_n((number % 4).astype(jnp.int32), *kinds) - clean)
            best, answer = self.ask(best, blended)
            return best, choose(answer.success & ~crossed, blended, point), crossed | answer.success

        best, point, crossed = loop(self.target, STARTS, begin, (best, clean, answer.success))
        return self.returned(state._replace(best=best, point=point, crossed=crossed), clean)

    def walk(self, state: State) -> State:
        """Linearise the boundary at the point, and move towards the clean image's projection."""
        clean, labels = self.problem.images, self.problem.labels

        def likeliest(outputs):
            return labels, likeliest_others(outputs, labels, count=1)

        found = nearest_boundary(self.target, state.point, likeliest, norm=self.attack.norm)
        answer = self.attack.answer(found.outputs, self.problem)
        best = self.attack.keep(
            state.best, self.problem, state.point, answer, finite=found.finite, steep=found.steep, backwards=1
        )

        def project(point, image, gap, normal):
            step = shortest_step(image, normal, gap - (normal * (image - point)).sum(), norm=self.attack.norm)
            return jnp.clip(image + OVERSHOOT * step, 0, 1)

        there = jax.vmap(project)(state.point, clean, found.gap, found.normal)
        # Where there is no gradient, there is nowhere to go.
        there = choose(jnp.abs(found.normal).max(axis=(1, 2, 3)) > 0, there, state.point)

        def go(number, carried):
            best, point, moved = carried
            share = jnp.asarray(0.5, clean.dtype) ** jnp.asarray(number, clean.dtype)
            images = state.point + share * (there - state.point)
            best, answer = self.ask(best, images)
            return best, choose(answer.success & ~moved, images, point), moved | answer.success

        best, point, moved = loop(self.target, 4, go, (best, state.point, jnp.zeros_like(state.crossed)))
        return self.returned(State(best, state.loss, point, state.crossed | moved), clean)

    def returned(self, state: State, clean: Any) -> State:
        """Bisect between the point, which fools the target, and the clean image."""

        def halve(_, carried):
            best, low, high = carried
            middle = (low + high) / 2
            share = middle.reshape(-1, 1, 1, 1)
            best, answer = self.ask(best, clean + share * (state.point - clean))
            return best, jnp.where(answer.success, low, middle), jnp.where(answer.success, middle, high)

        zero = jnp.zeros_like(state.loss)
        best, _, high = loop(self.target, HALVINGS, halve, (state.best, zero, zero + 1))
        point = clean + high.reshape(-1, 1, 1, 1) * (state.point - clean)
        return State(best, best.loss, point, state.crossed)
