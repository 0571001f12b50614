"""NES and SPSA: projected gradient ascent along gradients estimated from losses at random points around the iterate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpurify import keys as _keys
from jaxpurify.attacks.attack import Attack
from jaxpurify.attacks.checks import check_counts
from jaxpurify.attacks.draws import draws_of
from jaxpurify.attacks.norms import ball
from jaxpurify.attacks.queries import InChunks, ask, check_budget, chunk_of
from jaxpurify.attacks.result import Best, Problem, blank_best
from jaxpurify.attacks.rules import accumulate, mean_absolute_one, per_pixel, steepest
from jaxpurify.gradients import Expectation
from jaxpurify.models import attribute
from jaxpurify.pytrees import PerImage, Scalar, concrete, pytree_dataclass, static


class State(NamedTuple):
    """The search, every leaf with a leading batch axis.

    Attributes:
        best: the iterate kept.
        loss: the loss at the last iterate asked about.
        current: the iterate.
        direction: the random direction of the present pair of queries.
        ahead: the loss along it.
        estimate: the sum of the pairs so far, each a direction times the difference of its losses.
        rule: the update rule's state, one an image.
    """

    best: Best
    loss: Any
    current: Any
    direction: Any
    ahead: Any
    estimate: Any
    rule: Any


@pytree_dataclass
class ScoreAttack(InChunks, Attack):
    """Base of the attacks that estimate the gradient from losses; a subclass defines ``draw`` and ``rule``.

    A step asks about the iterate and about ``samples`` pairs of points on opposite sides of it. No step is begun that
    the budget cannot finish; the last query asks about the last iterate.

    Args:
        epsilon: the ball's size, in units of [0, 1].
        radius: distance of the points from the iterate in each value, same units: the standard deviation, or the size.
        step_size: length of a step, same units; None means ``step_fraction`` of epsilon.
        eot: the expectation over a random target's keys, or None for one draw. Within a step all points share draws.
        norm: ``"linf"`` or ``"l2"``.
        queries: evaluations of the model, an image and restart; every draw of a random target counts as one.
        samples: pairs of points a step.
        chunk: queries in one compiled call; results do not depend on it.
        restarts: independent searches, the second and later from random points; the best image of all is kept.
        loss: as for the gradient attacks.
        success: as for the gradient attacks.
        step_fraction: the default step as a share of epsilon.
        trace: whether the result keeps the loss of the last iterate at the end of each chunk.
    """

    epsilon: PerImage = 8 / 255
    radius: Scalar = 0.001
    step_size: PerImage | None = None
    eot: Expectation | None = None
    norm: str = static("linf")
    queries: int = static(5000)
    samples: int = static(25)
    chunk: int = static(100)
    restarts: int = static(1)
    loss: str | Callable = static("margin")
    success: Callable | None = static(None)
    step_fraction: float = static(0.1)
    trace: bool = static(False)
    uses_gradient = False

    def check(self):
        """Refuse sizes and counts that cannot be meant."""
        super().check()
        check_counts(self, "queries", "samples", "chunk")
        if self.norm not in ("linf", "l2"):
            raise ValueError(f'norm of {type(self).__name__} must be "linf" or "l2", got {self.norm!r}')
        for name in ("radius", "step_fraction"):
            value: Any = getattr(self, name)
            if value is not None and concrete(value) and np.ndim(value) == 0 and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number, got {value}")

    def prepare(self, target: Any, images: Any, labels: Any, key: Any, targets: Any) -> Problem:
        """Check the arguments of a call; a budget that ends before the first step is refused."""
        check_budget(self, target, rounds=2 * self.samples + 2)
        return super().prepare(target, images, labels, key, targets)

    def draw(self, key: Any, image: Any) -> Any:
        """Return a random direction of one image, whose values have mean 0 and variance 1."""
        raise NotImplementedError

    def rule(self) -> optax.GradientTransformation:
        """Return the update rule of one image, for a step of length 1."""
        raise NotImplementedError

    def blank(self, problem: Problem) -> State:
        """Return a state of the right structure."""
        images = problem.images
        rule = jax.eval_shape(jax.vmap(self.rule().init), images)
        zero, blank = jnp.zeros(images.shape[:1], images.dtype), jnp.zeros_like(images)
        rule = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), rule)
        return State(blank_best(images), zero, blank, blank, zero, blank, rule)

    def advance(self, target: Any, problem: Problem, state: State, restart: Any, step: Any) -> State:
        """Ask one chunk of queries."""
        clean, random, cost = problem.images, attribute(target, "random"), draws_of(self, target)
        period = 2 * self.samples + 1
        rounds = self.queries // cost
        rounds = (rounds - 1) // period * period + min(rounds, 1)
        chunk = chunk_of(step, rounds=rounds, chunk=self.chunk, cost=cost)
        keys = _keys.stream(problem.keys, "search", restart=restart)
        frozen = self.eot is not None and self.eot.randomness == "frozen"

        def query(number, state):
            round_ = chunk.first + number
            turn = round_ % period  # 0: the iterate; odd: ahead along a new direction; even: behind
            state = self._turned(state, _keys.fold(keys, round_ + 1), turn)
            draws = None
            if random:
                shared = jnp.uint32(0) if frozen else round_ // period
                draws = _keys.stream(problem.keys, "search", restart=restart, step=shared, draw=1)
            radius = jnp.asarray(self.radius, clean.dtype)
            offset = jnp.where(turn == 0, 0, jnp.where(turn % 2 == 1, radius, -radius))
            images = jnp.where(turn == 0, state.current, jnp.clip(state.current + offset * state.direction, 0, 1))
            met, answer = ask(self, target, problem, images, draws)
            # The points around an iterate may be out of the ball, and losses on other draws cannot be compared.
            eligible = (round_ == rounds - 1) if random else (turn == 0)
            best = state.best.consider(images, met, answer, random=random, eligible=eligible, forwards=cost)
            difference = jnp.where((turn > 0) & (turn % 2 == 0) & jnp.isfinite(state.ahead - met), state.ahead - met, 0)
            slope = (difference / (2 * radius * self.samples)).reshape(-1, 1, 1, 1)
            state = state._replace(
                best=best,
                loss=jnp.where(turn == 0, met, state.loss),
                ahead=met,
                estimate=state.estimate + slope * state.direction,
            )
            return jax.lax.cond(turn == period - 1, lambda: self._moved(state, problem), lambda: state)

        state = jax.lax.cond(step == 0, lambda: self._begun(problem, state, restart), lambda: state)
        return chunk.repeat(target, query, state)

    def _begun(self, problem: Problem, state: State, restart: Any) -> State:
        """Return the state at the first query of a restart: at the clean image, or later at a random point."""
        clean = problem.images

        def begin(image, key, epsilon):
            start = ball(self.norm).sample(key, image.shape, image.dtype, epsilon)
            return jnp.where(restart == 0, image, jnp.clip(image + start, 0, 1))

        current = jax.vmap(begin)(clean, _keys.stream(problem.keys, "start", restart=restart), problem.epsilon)
        return state._replace(current=current, rule=jax.vmap(self.rule().init)(clean))

    def _turned(self, state: State, keys: Any, turn: Any) -> State:
        """Return the state with what the next query needs: a new direction every other one."""
        images = state.current
        direction = jax.lax.cond(turn % 2 == 1, lambda: jax.vmap(self.draw)(keys, images), lambda: state.direction)
        return state._replace(direction=direction, estimate=jnp.where(turn == 0, 0, state.estimate))

    def _moved(self, state: State, problem: Problem) -> State:
        """Return the state after a step along the estimate."""
        sizes = self.step_fraction * problem.epsilon if problem.step_size is None else problem.step_size

        def move(estimate, rule_state, current, image, size, epsilon):
            direction, rule_state = self.rule().update(-estimate, rule_state, current)
            return ball(self.norm).inside(current + size * direction, image, epsilon), rule_state

        found = state.estimate, state.rule, state.current, problem.images
        current, rule = jax.vmap(move)(*found, sizes, problem.epsilon)
        return state._replace(current=current, rule=rule)


@pytree_dataclass
class NES(ScoreAttack):
    """Natural evolution strategies: normal directions, and steps in the steepest direction with momentum.

    Args:
        momentum: share of the accumulated estimate that is kept at each step.

    Source: Ilyas et al. 2018 (arXiv 1804.08598), section 2.2 and algorithm 1, with its 50 samples a step, radius and
    antithetic pairs; the momentum, there an option of the published attack, on the mean absolute value is our choice.
    """

    momentum: Scalar = 0.9

    def check(self):
        """Refuse a momentum outside [0, 1)."""
        super().check()
        if concrete(self.momentum) and np.ndim(self.momentum) == 0 and not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, got {self.momentum}")

    def draw(self, key: Any, image: Any) -> Any:
        """Return normal numbers."""
        return jax.random.normal(key, image.shape, image.dtype)

    def rule(self) -> optax.GradientTransformation:
        """Normalise, accumulate, step in the steepest direction."""
        return optax.chain(mean_absolute_one(), accumulate(self.momentum), steepest(self.norm))


@pytree_dataclass
class SPSA(ScoreAttack):
    """Simultaneous perturbation stochastic approximation: directions of random signs, and steps of Adam.

    Source: Uesato et al. 2018 (arXiv 1802.05666), algorithm 1, with its radius of 0.01 and, for a budget like that of
    the other black-box attacks, fewer than its thousands of samples a step: our choice. Estimates are first divided by
    their mean absolute value, so that none is small beside the constant that Adam adds to its divisor.
    """

    radius: Scalar = 0.01
    samples: int = static(32)

    def draw(self, key: Any, image: Any) -> Any:
        """Return random signs."""
        return jax.random.rademacher(key, image.shape, image.dtype)

    def rule(self) -> optax.GradientTransformation:
        """Normalise, follow Adam, and give its direction a length near 1."""
        return optax.chain(mean_absolute_one(), optax.adam(1.0), per_pixel(self.norm))
