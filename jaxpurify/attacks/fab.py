"""The fast adaptive boundary attack: steps to the linearised boundary, drawn towards the clean image."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import keys as _keys
from jaxpurify.attacks import losses
from jaxpurify.attacks.checks import check_candidates, check_counts
from jaxpurify.attacks.hyperplane import likeliest_others, nearest_boundary, shortest_step
from jaxpurify.attacks.minimal_norm import MinimalNormAttack
from jaxpurify.attacks.norms import ball
from jaxpurify.attacks.result import Best, Problem, blank_best
from jaxpurify.precision import divided
from jaxpurify.pytrees import PerImage, Scalar, concrete, pytree_dataclass, static

FINAL_STEPS = 3
# How far beyond the place where it expects the boundary the final search looks, as a share of what is left: a point
# on the boundary itself would succeed by rounding or not at all. And how far at least, as a share of the distance, so
# that what succeeds does so in another batch and framework too.
BEYOND = 0.05
CLEAR = 1e-3
# By how much steps towards a target overshoot until one has reached it: between boundaries of other classes than the
# target, where the nearest changes from step to step, shorter ones may stay for ever.
FAR = 1.3
# Within which random starts lie where neither epsilon nor an image found says how far to look.
REACH = {"linf": 0.3, "l2": 1.0}


class State(NamedTuple):
    """The search, every leaf with a leading batch axis.

    Attributes:
        best: the nearest image found.
        loss: minus its distance.
        current: the iterate to evaluate next.
        classes: those aimed at, the likeliest on the clean image first, shape ``(batch, target_classes)``.
        clean: the margin of success at the clean image.
        inside: in the final search, that at the nearest image known not to succeed, on the line from the clean image
            to the one kept.
        outside: that at the image kept.
        share: where on that line, from 0 to 1, the former lies.
        tried: where on it the current iterate lies.
        reached: whether any iterate has succeeded, within epsilon or not.
    """

    best: Best
    loss: Any
    current: Any
    classes: Any
    clean: Any
    inside: Any
    outside: Any
    share: Any
    tried: Any
    reached: Any


@pytree_dataclass
class FAB(MinimalNormAttack):
    """Find the nearest image that succeeds by steps to the linearised decision boundary within the box.

    Args:
        epsilon: the largest distance that counts as success, or None for any.
        alpha_max: the largest weight of the step that starts at the clean image.
        eta: by how much steps go beyond the boundary.
        beta: share of the distance that is kept, where an iterate succeeds.
        norm: ``"linf"`` or ``"l2"``.
        steps: linearisations a restart.
        restarts: the first begins at the clean image, the others at random points at half the distance of the image
            found so far, and not beyond half of epsilon.
        target_classes: how many classes are aimed at, each in a search of its own, with one gradient a step; 0 to step
            to the nearest boundary, with a gradient for each other class.
        candidates: with no target classes, how many of the likeliest other classes are looked at; None for all.
        trace: whether the result keeps the loss at each step.

    Source: Croce and Hein 2020 (arXiv 1907.02044), algorithm 1, with its final search on a line; aiming at classes is
    section 4.4. Ours: an iterate that succeeds is linearised where it is, and the step taken from the point drawn back
    towards the clean image. That point lies farther from the boundary, and the paper's way takes one forward pass more
    a step. And with targets, which the paper knows only as a boundary to aim at, steps are longer and start at
    the iterate alone until one has reached the target.
    """

    epsilon: PerImage | None = None
    alpha_max: Scalar = 0.1
    eta: Scalar = 1.05
    beta: Scalar = 0.9
    norm: str = static("linf")
    steps: int = static(100)
    restarts: int = static(1)
    target_classes: int = static(0)
    candidates: int | None = static(None)
    trace: bool = static(False)

    def check(self):
        """Refuse counts below one and shares that are none."""
        super().check()
        check_counts(self, "steps")
        check_counts(self, "target_classes", least=0)
        check_candidates(self.candidates, least=1)
        for name, least, most in (("alpha_max", 0, 1), ("beta", 0, 1), ("eta", 1, 2)):
            value = getattr(self, name)
            if concrete(value) and np.ndim(value) == 0 and not least <= value <= most:
                raise ValueError(f"{name} must be from {least} to {most}, got {value}")

    @property
    def evaluations(self) -> int:
        """The clean image or start, the point after each step, and the final search."""
        return self.steps + 1 + FINAL_STEPS

    @property
    def needs_key(self) -> bool:
        """Restarts begin at random points."""
        return self.restarts > 1

    def blank(self, problem: Problem) -> State:
        """Return a state of the right structure."""
        images = problem.images
        number = jnp.zeros(images.shape[:1], images.dtype)
        classes = jnp.zeros((len(images), self.target_classes or 0), jnp.int32)
        return State(
            best=blank_best(images),
            loss=number,
            current=jnp.zeros_like(images),
            classes=classes,
            clean=number,
            inside=number,
            outside=number,
            share=number,
            tried=number,
            reached=number > 0,
        )

    def advance(self, target: Any, problem: Problem, state: State, restart: Any, step: Any) -> State:
        """Linearise at the current iterate, keep it if it is the nearest, and step to the boundary."""
        clean = problem.images
        state = state._replace(current=jnp.where(step == 0, self._start(problem, state.best, restart), state.current))
        first = (restart == 0) & (step == 0)
        classes = state.classes

        def choose(outputs):
            nonlocal classes
            if self.target_classes:
                ranked = likeliest_others(outputs, problem.labels, count=self.target_classes)
                classes = jnp.where(first, ranked, classes)
                rank = restart.astype(jnp.int32) % self.target_classes
                return problem.labels, jax.lax.dynamic_slice_in_dim(classes, rank, 1, axis=1)
            if problem.targets is not None:
                return likeliest_others(outputs, problem.targets, count=1)[:, 0], problem.targets[:, None]
            count = min(self.candidates or outputs.shape[1], outputs.shape[1] - 1)
            return problem.labels, likeliest_others(outputs, problem.labels, count=count)

        found = nearest_boundary(target, state.current, choose, norm=self.norm)
        answer = self.answer(found.outputs, problem)
        margin = losses.margin(found.outputs, problem.labels, problem.targets).astype(clean.dtype)
        best = self.keep(
            state.best,
            problem,
            state.current,
            answer,
            finite=found.finite,
            steep=found.steep,
            backwards=found.backwards,
        )
        nearer = best.loss > state.best.loss
        state = state._replace(
            best=best,
            loss=best.loss,
            classes=classes,
            clean=jnp.where(first, margin, state.clean),
            outside=jnp.where(nearer, margin, state.outside),
            reached=state.reached | answer.success,
        )
        far = ~state.reached & (problem.targets is not None)
        stepped = jax.vmap(self._step)(state.current, clean, found.gap, found.normal, answer.success, far)
        state = _narrow(state, margin, nearer, searching=step > self.steps)
        between = clean + state.tried[:, None, None, None] * (best.images - clean)
        return state._replace(current=jnp.clip(jnp.where(step < self.steps, stepped, between), 0, 1))

    def _start(self, problem: Problem, best: Best, restart: Any) -> Any:
        clean = problem.images
        if self.restarts == 1:
            return clean
        reach = jnp.asarray(REACH[self.norm], clean.dtype) if problem.epsilon is None else problem.epsilon
        distances = jnp.minimum(-best.loss, reach) / 2

        def start(image, distance, key):
            moved = ball(self.norm).sample(key, image.shape, image.dtype, jnp.ones((), image.dtype))
            return jnp.clip(image + divided(moved, ball(self.norm).size(moved)) * distance, 0, 1)

        starts = jax.vmap(start)(clean, distances, _keys.stream(problem.keys, "start", restart=restart))
        return jnp.where(restart < max(1, self.target_classes), clean, starts)

    def _step(self, current, image, gap, normal, succeeded, far):
        """Step from one image and from its clean one to the boundary, and average them."""
        alpha_max, eta, beta = (jnp.asarray(leaf, image.dtype) for leaf in (self.alpha_max, self.eta, self.beta))
        alpha_max, eta = jnp.where(far, 0, alpha_max), jnp.where(far, jnp.maximum(eta, FAR), eta)
        back = jnp.where(succeeded, image + beta * (current - image), current)
        points = jnp.stack([back, image])
        needs = gap - (normal[None] * (points - current[None])).sum(axis=(1, 2, 3))
        steps = jax.vmap(lambda point, need: shortest_step(point, normal, need, norm=self.norm))(points, needs)
        lengths = jnp.maximum(jax.vmap(ball(self.norm).size)(steps), 1e-8)
        alpha = jnp.minimum(lengths[0] / lengths.sum(), alpha_max)
        return (1 - alpha) * (back + eta * steps[0]) + alpha * (image + eta * steps[1])


def _narrow(state: State, margin: Any, nearer: Any, *, searching: Any) -> State:
    """Take the last point tried on the line for one of its ends, and try where the margin would next cross zero."""
    inside = jnp.where(searching, jnp.where(nearer, state.inside, margin), state.clean)
    share = jnp.where(nearer, state.share / jnp.maximum(state.tried, 1e-6), state.tried)
    share = jnp.where(searching, jnp.minimum(share, 1), jnp.zeros_like(share))
    low, high = jnp.minimum(inside, 0), jnp.maximum(state.outside, 0)
    crossing = divided(-low, high - low)
    crossing = share + (1 - share) * crossing
    tried = jnp.maximum(crossing + BEYOND * (1 - crossing), crossing * (1 + CLEAR))
    return state._replace(inside=inside, share=share, tried=jnp.minimum(tried, 1))
