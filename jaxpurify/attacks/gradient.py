"""The gradient family: FGSM, I-FGSM, MI-FGSM and PGD are configurations of one loop.

They differ in loss, input transformation and update rule, which is an Optax transformation: it is built once, receives
the negative gradient (so that a descent rule ascends), and runs per image, so that its norms never mix images.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpurify import keys as _keys
from jaxpurify.attacks import losses
from jaxpurify.attacks.attack import Attack, blank_best
from jaxpurify.attacks.norms import ball
from jaxpurify.attacks.result import Best, Problem
from jaxpurify.gradients import Expectation
from jaxpurify.models import attribute
from jaxpurify.pytrees import Scalar, concrete, pytree_dataclass, static


class State(NamedTuple):
    """The search, every leaf with a leading batch axis, so that compaction is indexing.

    Attributes:
        best: the iterate kept.
        loss: the loss just met.
        current: the iterate to evaluate next.
        rule: the update rule's state, one an image.
    """

    best: Best
    loss: Any
    current: Any
    rule: Any


@pytree_dataclass
class GradientAttack(Attack):
    """Follow the gradient of a loss within a norm ball: the one loop of the family.

    Args:
        epsilon: the ball's size, in units of [0, 1].
        step_size: length of a step, same units; None means ``step_fraction`` of epsilon.
        eot: the expectation over a random target's keys, or None for one draw a step. A target without randomness is
            evaluated once a step whatever it says.
        norm: ``"linf"`` or ``"l2"``.
        steps: number of steps; the last iterate is evaluated too.
        restarts: independent searches; the best image of all is kept.
        loss: ``"cross-entropy"``, ``"margin"``, ``"dlr"``, or ``f(outputs, reference) -> (batch,)``, which is raised
            (lowered, where targets are given).
        success: ``f(outputs, reference) -> (batch,) bool``; classification by default.
        random_start: whether a restart begins at a random point of the ball.
        update: an Optax factory, called once with learning rate 1, such as ``optax.adam``; by default a step of length
            ``step_size`` in the steepest direction of the norm. A ``functools.partial`` of one is welcome.
        transformation: ``f(images, keys) -> images`` applied before the target in the search, or None.
        step_fraction: the default step as a share of epsilon; None means 1/steps.
        trace: whether the result keeps the loss at each step.

    Source: Madry et al. 2018 (arXiv 1706.06083). Keeping the best iterate in the place of the last is our choice: it
    costs nothing and is never weaker. Against a random target the last is kept, since losses on different draws cannot
    be compared.
    """

    epsilon: Scalar = 8 / 255
    step_size: Scalar | None = None
    eot: Expectation | None = None
    norm: str = static("linf")
    steps: int = static(40)
    restarts: int = static(1)
    loss: str | Callable = static("cross-entropy")
    success: Callable | None = static(None)
    random_start: bool = static(True)
    update: Callable | None = static(None)
    transformation: Callable | None = static(None)
    step_fraction: float | None = static(0.25)
    trace: bool = static(False)

    def check(self):
        """Refuse sizes and counts that cannot be meant."""
        super().check()
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps must be an integer of at least 1, got {self.steps}")
        known = concrete(self.step_size) and self.step_size is not None and np.ndim(self.step_size) == 0
        length: Any = self.step_size if known else 0.25
        if not 0 < length < float("inf"):
            raise ValueError(f"step_size must be a positive number, got {length}")
        if self.step_fraction is not None and not 0 < self.step_fraction < float("inf"):
            raise ValueError(f"step_fraction must be a positive number, got {self.step_fraction}")
        if self.norm == "linf" and length > 1 and self.update is None:
            raise ValueError(f"step_size must be at most 1 in the linf norm, got {self.step_size}: divide by 255")
        if isinstance(self.update, functools.partial):
            arguments = tuple(sorted(self.update.keywords.items()))
            object.__setattr__(self, "update", _Factory(self.update.func, self.update.args, arguments))

    @property
    def evaluations(self) -> int:
        """One an iterate: the starting point and the point after each step."""
        return self.steps + 1

    def cost(self, target: Any) -> tuple[int, int]:
        """One forward and one backward pass a draw."""
        draws = self.eot.samples if self.eot is not None and attribute(target, "random") else 1
        return draws, draws

    @property
    def needs_key(self) -> bool:
        """Random starts and transformations draw numbers."""
        return self.random_start or self.transformation is not None

    @property
    def sees_target(self) -> bool:
        """False where the search looks at the target through a transformation of the images."""
        return self.transformation is None

    def rule(self) -> optax.GradientTransformation:
        """Return the update rule of one image, for a step of length 1."""
        return steepest(self.norm) if self.update is None else self.update(1.0)

    def blank(self, problem: Problem) -> State:
        """Return a state of the right structure."""
        images = problem.images
        rule = jax.eval_shape(jax.vmap(self.rule().init), images)
        return State(
            best=blank_best(images),
            loss=jnp.zeros(images.shape[:1], images.dtype),
            current=jnp.zeros(images.shape, images.dtype),
            rule=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), rule),
        )

    def advance(self, target: Any, problem: Problem, state: State, restart: Any, step: Any) -> State:
        """Evaluate loss and gradient at the current iterate, keep the best and take one step."""
        clean, labels, targets, _ = problem
        epsilon = jnp.asarray(self.epsilon, clean.dtype)
        rule = self.rule()
        current, rule_state = jax.lax.cond(
            step == 0,
            lambda: (self._start(problem, restart), jax.vmap(rule.init)(clean)),
            lambda: (state.current, state.rule),
        )
        outputs, loss, gradient = self._gradient(target, problem, current, restart, step)
        loss = loss.astype(clean.dtype)
        random = attribute(target, "random") or not self.sees_target
        usable = jnp.isfinite(gradient)
        best = state.best.consider(
            current,
            loss,
            losses.label_margin(outputs, labels),
            losses.succeeded(self.success, outputs, labels, targets),
            jnp.isfinite(loss) & usable.all(axis=(1, 2, 3)),
            random=random,
            # Losses on different draws do not tell which iterate is better: the luckiest draw would win.
            eligible=(step == self.steps) if random else True,
        )
        gradient = jnp.where(usable, gradient, jnp.zeros_like(gradient))

        length = self._length(epsilon)

        def move(gradient, rule_state, current, image):
            direction, rule_state = rule.update(-gradient, rule_state, current)
            perturbation = ball(self.norm).project(current + length * direction - image, epsilon)
            return jnp.clip(image + perturbation, 0, 1), rule_state

        current, rule_state = jax.vmap(move)(gradient, rule_state, current, clean)
        return State(best=best, loss=loss, current=current, rule=rule_state)

    def _length(self, epsilon: Any) -> Any:
        if self.step_size is not None:
            return jnp.asarray(self.step_size, epsilon.dtype)
        return epsilon * (1 / self.steps if self.step_fraction is None else self.step_fraction)

    def at_clean(self, problem: Problem, state: State) -> State | None:
        """Return the state whose current iterate is the clean image."""
        return state._replace(current=jnp.copy(problem.images)) if self.random_start else None

    def _start(self, problem: Problem, restart: Any) -> Any:
        if not self.random_start:
            return problem.images
        epsilon = jnp.asarray(self.epsilon, problem.images.dtype)

        def start(image, key):
            return jnp.clip(image + ball(self.norm).sample(key, image.shape, image.dtype, epsilon), 0, 1)

        return jax.vmap(start)(problem.images, _keys.stream(problem.keys, "start", restart=restart))

    def _gradient(self, target: Any, problem: Problem, current: Any, restart: Any, step: Any) -> tuple[Any, Any, Any]:
        frozen = self.eot is not None and self.eot.randomness == "frozen"
        keys = problem.keys
        if keys is not None:
            keys = _keys.stream(keys, "search", restart=restart, step=jnp.zeros_like(step) if frozen else step)
        judge = losses.resolve(self.loss)

        def of_outputs(outputs):
            return judge(outputs, problem.labels, problem.targets)

        def objective(images):
            if self.transformation is not None:
                images = self.transformation(images, _keys.fold(keys, 2**32 - 1))
            random = attribute(target, "random")
            if random and self.eot is not None:
                loss, outputs = self.eot(target, images, keys, of_outputs)
            else:
                outputs = target(images, keys if random else None)
                loss = of_outputs(outputs)
            return loss.sum(), (outputs, loss)

        gradient, (outputs, loss) = jax.grad(objective, has_aux=True)(current)
        return outputs, loss, gradient


def steepest(norm: str) -> optax.GradientTransformation:
    """Step by 1 in the direction of steepest descent of a norm (fed negative gradients, it ascends).

    Args:
        norm: ``"linf"`` (the sign) or ``"l2"`` (the normalised gradient).

    Returns:
        An Optax transformation of one image.
    """
    return optax.stateless(lambda updates, _: jax.tree.map(lambda value: -ball(norm).direction(value), updates))


class _Factory(NamedTuple):
    """A partial application that equals another of the same parts, so that it does not compile anew."""

    function: Callable
    arguments: tuple
    keywords: tuple

    def __call__(self, learning_rate):
        return self.function(learning_rate, *self.arguments, **dict(self.keywords))


@pytree_dataclass
class PGD(GradientAttack):
    """Projected gradient descent: random start, steps of ε/4 in the steepest direction, projection onto the ball.

    Source: Madry et al. 2018 (arXiv 1706.06083). Forty steps and a quarter of ε are our choice, the budget at which the
    figures of this project are compared.
    """


@pytree_dataclass
class FGSM(GradientAttack):
    """Fast gradient sign method: one step of the whole ε from the clean image.

    Source: Goodfellow, Shlens and Szegedy 2015 (arXiv 1412.6572).
    """

    steps: int = static(1)
    random_start: bool = static(False)
    step_fraction: float = static(1.0)


@pytree_dataclass
class IFGSM(GradientAttack):
    """Iterative FGSM (the basic iterative method): steps of ε/steps from the clean image.

    Source: Kurakin, Goodfellow and Bengio 2017 (arXiv 1607.02533).
    """

    steps: int = static(10)
    random_start: bool = static(False)
    step_fraction: float | None = static(None)


@pytree_dataclass
class MIFGSM(IFGSM):
    """Momentum iterative FGSM: gradients are divided by their mean absolute value and accumulated.

    Args:
        decay: share of the accumulated gradient that is kept at each step.

    Source: Dong et al. 2018 (arXiv 1710.06081), algorithm 1. That algorithm divides by the L1 norm; the mean absolute
    value differs from it by a constant only, which the sign removes.
    """

    decay: Scalar = 1.0

    def rule(self) -> optax.GradientTransformation:
        """Normalise, accumulate, step in the steepest direction."""
        return optax.chain(_mean_absolute_one(), _trace(self.decay), super().rule())


def _mean_absolute_one() -> optax.GradientTransformation:
    def normalise(value):
        return value / jnp.maximum(jnp.abs(value).mean(), jnp.finfo(value.dtype).tiny)

    return optax.stateless(lambda updates, _: jax.tree.map(normalise, updates))


def _trace(decay: Any) -> optax.GradientTransformation:
    """Accumulate like ``optax.trace``, in the gradient's own dtype whatever the decay's."""

    def update(updates, state, params=None):
        del params
        total = jax.tree.map(lambda new, old: new + jnp.asarray(decay, new.dtype) * old, updates, state)
        return total, total

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)
