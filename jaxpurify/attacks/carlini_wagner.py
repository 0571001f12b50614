"""The attack of Carlini and Wagner in the l2 norm: distance traded against confidence, the price found by bisection."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify.attacks import losses
from jaxpurify.attacks.checks import check_counts, check_size
from jaxpurify.attacks.minimal_norm import MinimalNormAttack, look
from jaxpurify.attacks.result import Best, Problem, blank_best
from jaxpurify.gradients import Expectation
from jaxpurify.pytrees import PerImage, Scalar, concrete, pytree_dataclass, static

# Adam's, as its paper has them.
DECAYS = (0.9, 0.999)
SAFE = 1e-8
LARGEST = 1e18  # whose square is finite
# The hyperbolic tangent of black and white pixels. Near one, where the paper has it, they hardly move in the first few
# hundred steps.
BOUND = 0.95
EDGE = math.atanh(BOUND)


class State(NamedTuple):
    """The search, every leaf with a leading batch axis.

    Attributes:
        best: the nearest image found.
        loss: minus its distance.
        place: where the iterate lies on the axis that the hyperbolic tangent bends.
        mean: Adam's mean gradient.
        square: Adam's mean squared gradient.
        price: the weight of the margin in this search.
        low: the highest price at which nothing was found.
        high: the lowest at which something was.
        found: whether this search has found anything.
    """

    best: Best
    loss: Any
    place: Any
    mean: Any
    square: Any
    price: Any
    low: Any
    high: Any
    found: Any


@pytree_dataclass
class CarliniWagner(MinimalNormAttack):
    """Minimise the squared l2 distance less a price times the margin, with Adam, and search for the price.

    Args:
        epsilon: the largest distance that counts as success, or None for any.
        confidence: by how much the winning logit must lead (κ of the paper).
        step_size: Adam's learning rate, or one for each image, shape ``(images,)``.
        price: the margin's first weight (c of the paper): ten times higher after each search that finds nothing, until
            one does, then halfway between.
        eot: the expectation over a random target's keys, or None for one draw a step.
        norm: ``"l2"``.
        steps: steps of Adam at each price.
        searches_of_price: prices tried.
        trace: whether the result keeps the loss at each step.

    Source: Carlini and Wagner 2017 (arXiv 1608.04644), sections V and VI. Nine prices, a thousand steps and the first
    price are those of the authors' code. Ours: the first iterate is the clean image itself; black and white pixels lie
    where the tangent is still steep, and steps beyond are clipped; and against a random target success is that of nine
    in ten fresh draws.
    """

    epsilon: PerImage | None = None
    confidence: Scalar = 0.0
    step_size: PerImage = 0.01
    price: Scalar = 1e-3
    eot: Expectation | None = None
    norm: str = static("l2")
    steps: int = static(1000)
    searches_of_price: int = static(9)
    trace: bool = static(False)
    norms = ("l2",)
    averages = True
    steps_in_images = False
    restarts = 1

    def check(self):
        """Refuse numbers and counts that cannot be meant."""
        super().check()
        check_counts(self, "steps", "searches_of_price")
        check_size("confidence", self.confidence)
        if self.step_size is None:
            raise TypeError("step_size must be a number such as 0.01, or one for each image, got None")
        if concrete(self.price) and np.ndim(self.price) == 0 and not 0 < self.price < np.inf:
            raise ValueError(f"price must be a finite number above 0, got {self.price}")

    @property
    def evaluations(self) -> int:
        """One a step."""
        return self.steps

    @property
    def searches(self) -> int:
        """One a price."""
        return self.searches_of_price

    def blank(self, problem: Problem) -> State:
        """Return a state of the right structure."""
        images = problem.images
        number = jnp.zeros(images.shape[:1], images.dtype)
        return State(
            best=blank_best(images),
            loss=number,
            place=jnp.zeros_like(images),
            mean=jnp.zeros_like(images),
            square=jnp.zeros_like(images),
            price=number,
            low=number,
            high=number,
            found=number > 0,
        )

    def advance(self, target: Any, problem: Problem, state: State, restart: Any, step: Any) -> State:
        """Evaluate the current iterate, keep it if it is the nearest, and take one step of Adam."""
        clean = problem.images
        confidence, rate = jnp.asarray(self.confidence, clean.dtype), problem.step_size[:, None, None, None]
        state = jax.tree.map(
            lambda new, old: jnp.where(step == 0, new, old), self._start(problem, state, restart), state
        )
        bent = jnp.tanh(state.place)
        images = jnp.where(step == 0, clean, jnp.clip((1 + bent / BOUND) / 2, 0, 1))

        def capped(outputs, labels, targets):
            margin = losses.margin(outputs, labels, targets)
            return jnp.minimum(margin, confidence.astype(margin.dtype))

        seen = look(self, target, problem, images, restart=restart, step=step, loss=capped)
        answer = seen.answer._replace(
            success=seen.answer.success & (seen.margin >= confidence.astype(seen.margin.dtype))
        )
        best = self.keep(state.best, problem, images, answer, **seen.spent)

        price = state.price[:, None, None, None]
        gradient = (2 * (images - clean) - price * seen.gradient) * (1 - bent * bent) / (2 * BOUND)
        gradient = jnp.clip(gradient, -LARGEST, LARGEST)
        mean = DECAYS[0] * state.mean + (1 - DECAYS[0]) * gradient
        square = DECAYS[1] * state.square + (1 - DECAYS[1]) * gradient * gradient
        number = (step + 1).astype(clean.dtype)
        unbiased = mean / (1 - DECAYS[0] ** number), square / (1 - DECAYS[1] ** number)
        return state._replace(
            best=best,
            loss=best.loss,
            place=jnp.clip(state.place - rate * unbiased[0] / (jnp.sqrt(unbiased[1]) + SAFE), -EDGE, EDGE),
            mean=mean,
            square=square,
            found=state.found | answer.success,
        )

    def _start(self, problem: Problem, state: State, restart: Any) -> State:
        """Begin at the clean image with the next price."""
        clean = problem.images
        endless = jnp.full_like(state.high, jnp.inf)
        high = jnp.where(state.found, jnp.minimum(state.high, state.price), state.high)
        low = jnp.where(state.found, state.low, jnp.maximum(state.low, state.price))
        price = jnp.where(jnp.isfinite(high), (low + high) / 2, 10 * state.price)
        first = restart == 0
        return state._replace(
            place=jnp.arctanh((2 * clean - 1) * BOUND),
            mean=jnp.zeros_like(state.mean),
            square=jnp.zeros_like(state.square),
            price=jnp.where(first, jnp.asarray(self.price, clean.dtype), price),
            low=jnp.where(first, jnp.zeros_like(low), low),
            high=jnp.where(first, endless, high),
            found=jnp.zeros_like(state.found),
        )
