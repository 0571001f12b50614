"""The decoupled direction and norm attack: the norm shrinks after a success and grows after a failure."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify.attacks import losses
from jaxpurify.attacks.checks import check_counts
from jaxpurify.attacks.minimal_norm import MinimalNormAttack, look
from jaxpurify.attacks.norms import ball, length
from jaxpurify.attacks.result import Best, Problem, blank_best
from jaxpurify.gradients import Expectation
from jaxpurify.pytrees import PerImage, Scalar, concrete, pytree_dataclass, static

# The step's length falls from one to this along half a cosine.
LAST_STEP = 0.01


class State(NamedTuple):
    """The search, every leaf with a leading batch axis.

    Attributes:
        best: the nearest image found.
        loss: minus its distance.
        current: the iterate to evaluate next.
        radius: the norm on which it lies.
    """

    best: Best
    loss: Any
    current: Any
    radius: Any


@pytree_dataclass
class DDN(MinimalNormAttack):
    """Step along the gradient, then rescale the perturbation: shorter after a success, longer after a failure.

    Args:
        epsilon: the largest distance that counts as success, or None for any.
        gamma: by what share the norm changes at each step.
        start: the first norm.
        eot: the expectation over a random target's keys, or None for one draw a step.
        norm: ``"l2"``.
        steps: number of evaluations.
        levels: values a pixel may take, such as 256 for images that will be stored in 8 bits; None for any.
        trace: whether the result keeps the loss at each step.

    Source: Rony et al. 2019 (arXiv 1811.09600), algorithm 1. Ours: where the gradient vanishes nothing moves (there,
    a random direction), and against a random target success is that of nine in ten fresh draws.
    """

    epsilon: PerImage | None = None
    gamma: Scalar = 0.05
    start: Scalar = 1.0
    eot: Expectation | None = None
    norm: str = static("l2")
    steps: int = static(1000)
    levels: int | None = static(None)
    trace: bool = static(False)
    norms = ("l2",)
    averages = True
    restarts = 1

    def check(self):
        """Refuse numbers and counts that cannot be meant."""
        super().check()
        check_counts(self, "steps")
        if self.levels is not None and (not isinstance(self.levels, int) or self.levels < 2):
            raise ValueError(f"levels must be an integer of at least 2, such as 256, or None, got {self.levels}")
        for name, most in (("gamma", 1), ("start", np.inf)):
            value = getattr(self, name)
            if concrete(value) and np.ndim(value) == 0 and not 0 < value < most:
                raise ValueError(f"{name} must be above 0 and below {most}, got {value}")

    @property
    def evaluations(self) -> int:
        """One a step."""
        return self.steps

    def blank(self, problem: Problem) -> State:
        """Return a state of the right structure."""
        images = problem.images
        number = jnp.zeros(images.shape[:1], images.dtype)
        return State(blank_best(images), number, jnp.zeros_like(images), number)

    def advance(self, target: Any, problem: Problem, state: State, restart: Any, step: Any) -> State:
        """Evaluate the current iterate, keep it if it is the nearest, and step and rescale."""
        clean = problem.images
        gamma, start = (jnp.asarray(leaf, clean.dtype) for leaf in (self.gamma, self.start))
        current = jnp.where(step == 0, clean, state.current)
        radius = jnp.where(step == 0, start, state.radius)
        seen = look(self, target, problem, current, restart=restart, step=step, loss=losses.cross_entropy)
        best = self.keep(state.best, problem, current, seen.answer, **seen.spent)
        # No perturbation within the box is longer than that to the farthest corner.
        farthest = jax.vmap(length)(jnp.maximum(clean, 1 - clean))
        radius = jnp.minimum(radius * jnp.where(seen.answer.success, 1 - gamma, 1 + gamma), farthest)
        share = step.astype(clean.dtype) / self.steps
        rate = LAST_STEP + (1 - LAST_STEP) * (1 + jnp.cos(jnp.pi * share)) / 2

        def move(image, current, gradient, radius):
            perturbation = current - image + rate * ball("l2").direction(gradient)
            moved = jnp.clip(image + radius * ball("l2").direction(perturbation), 0, 1)
            return moved if self.levels is None else jnp.round(moved * (self.levels - 1)) / (self.levels - 1)

        current = jax.vmap(move)(clean, current, seen.gradient, radius)
        return State(best=best, loss=best.loss, current=current, radius=radius)
