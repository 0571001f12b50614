"""The gradient family: FGSM, R-FGSM, I-FGSM, MI-FGSM and PGD are configurations of one loop.

They differ in loss, start, what the target is shown (``view``), what else is looked at (``surroundings``) and update
rule, which is an Optax transformation: it is built once, receives negative gradients (so that a descent rule ascends),
and runs per image, so that its norms never mix images.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxpurify import keys as _keys
from jaxpurify.attacks import losses
from jaxpurify.attacks.attack import Attack
from jaxpurify.attacks.checks import check_counts, check_share, check_size
from jaxpurify.attacks.draws import draws_of, loss_and_gradient, search_keys
from jaxpurify.attacks.norms import ball
from jaxpurify.attacks.result import Best, Problem, blank_best
from jaxpurify.attacks.rules import Factory, accumulate, mean_absolute_one, per_pixel, steepest
from jaxpurify.gradients import Expectation
from jaxpurify.models import attribute
from jaxpurify.pytrees import PerImage, Scalar, pytree_dataclass, static

# Folded into the keys of a step; the draws of an expectation are numbered from 0.
_VIEW = 2**32 - 1
_L1_START = 0.1


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
        epsilon: the ball's size, in units of [0, 1], or one for each image, shape ``(images,)``.
        step_size: length of a step, same units, or one for each image; None means ``step_fraction`` of epsilon.
        eot: the expectation over a random target's keys, or None for one draw a step. A target without randomness is
            evaluated once a step whatever it says.
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.
        steps: number of steps; the last iterate is evaluated too.
        restarts: independent searches; the best image of all is kept.
        loss: ``"cross-entropy"``, ``"margin"``, ``"dlr"``, or ``f(outputs, reference) -> (batch,)``, which is raised
            (lowered, where targets are given).
        success: ``f(outputs, reference) -> (batch,) bool``; classification by default.
        random_start: whether a restart begins at a random point of the ball.
        update: an Optax factory, called once with learning rate 1, such as ``optax.adam``; by default a step of length
            ``step_size`` in the steepest direction of the norm. A ``functools.partial`` of one is welcome.
        transformation: ``f(images, keys) -> images`` of the same shape, applied before the target at every step but the
            evaluation of the last iterate, or None.
        step_fraction: the default step as a share of epsilon; None means 1/steps.
        l1_share: the share of an image's values that a step of the l1 norm changes, at least one of them.
        trace: whether the result keeps the loss at each step.

    Source: Madry et al. 2018 (arXiv 1706.06083); in the l1 norm the step of SLIDE, Tramèr and Boneh 2019 (arXiv
    1904.13000, section 3), with starts in a tenth of the ball, our choice: sparse steps are slow to
    undo dense noise. Keeping the best iterate in the place of the last is our choice: it costs nothing and is
    never weaker. The last is kept where iterates cannot be compared: against a random target, whose losses are of
    different draws, and where the search looks at other images than the iterates.
    """

    epsilon: PerImage = 8 / 255
    step_size: PerImage | None = None
    eot: Expectation | None = None
    l1_share: Scalar = 0.01
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
        check_counts(self, "steps")
        if self.step_fraction is not None and not 0 < self.step_fraction < float("inf"):
            raise ValueError(f"step_fraction must be a positive number, got {self.step_fraction}")
        check_share("l1_share", self.l1_share)
        if isinstance(self.update, functools.partial):
            arguments = tuple(sorted(self.update.keywords.items()))
            object.__setattr__(self, "update", Factory(self.update.func, self.update.args, arguments))

    @property
    def evaluations(self) -> int:
        """One an iterate: the starting point and the point after each step."""
        return self.steps + 1

    @property
    def looks(self) -> int:
        """Gradients computed at each evaluation."""
        return 1

    @property
    def needs_key(self) -> bool:
        """Random starts and transformations draw numbers."""
        return self.random_start or self.transformation is not None

    @property
    def sees_target(self) -> bool:
        """False where the search shows the target other images than the iterates."""
        return self.transformation is None

    def rule(self) -> optax.GradientTransformation:
        """Return the update rule of one image, for a step of length 1."""
        return steepest(self.norm, l1_share=self.l1_share) if self.update is None else self.update(1.0)

    @property
    def steps_in_images(self) -> bool:  # type: ignore[override]
        """A step of the default rule has its length in the images; what another rule's means is not known."""
        return self.update is None

    def length(self, problem: Problem) -> Any:
        """Return the length of a step, shape ``(batch,)``."""
        if problem.step_size is not None:
            return problem.step_size
        return problem.epsilon * (1 / self.steps if self.step_fraction is None else self.step_fraction)

    def start(self, image: Any, key: Any, epsilon: Any) -> Any:
        """Return the perturbation of one image at which a restart with ``random_start`` begins."""
        radius = epsilon * _L1_START if self.norm == "l1" else epsilon
        return ball(self.norm).sample(key, image.shape, image.dtype, radius)

    def view(self, images: Any, keys: Any, rule_state: Any, length: Any) -> Any:
        """Return what the target is shown at an iterate; never called where the attack ``sees_target``.

        ``length`` is that of each image's step.
        """
        return self.transformation(images, _keys.fold(keys, _VIEW)) if self.transformation is not None else images

    def surroundings(self, gradient_at: Callable, current: Any, epsilon: Any, keys: Any) -> dict[str, Any]:
        """Return gradients at other points, which the update rule takes as extra arguments, negated.

        ``gradient_at(images, keys)`` returns outputs, losses and gradient; ``epsilon`` has shape ``(batch,)``.
        """
        return {}

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
        clean, last = problem.images, step == self.steps
        epsilon, length, rule = problem.epsilon, self.length(problem), optax.with_extra_args_support(self.rule())
        current, rule_state = jax.lax.cond(
            step == 0,
            lambda: (self._begin(problem, restart), jax.vmap(rule.init)(clean)),
            lambda: (state.current, state.rule),
        )

        def shown(images, keys):
            if self.sees_target:
                return images
            return jnp.where(last, images, self.view(images, keys, rule_state, length))

        keys = search_keys(self, problem, restart, step)
        gradient_at = functools.partial(self._gradient, target, problem, shown)
        outputs, loss, gradient = gradient_at(current, keys)
        found = {"updates": gradient} | self.surroundings(gradient_at, current, epsilon, keys)
        usable = [jnp.isfinite(leaf).all(axis=(1, 2, 3)) for leaf in found.values()]
        random, spent = attribute(target, "random"), draws_of(self, target) * self.looks
        loss = loss.astype(clean.dtype)
        best = state.best.consider(
            current,
            loss,
            self.answer(outputs, problem),
            finite=functools.reduce(jnp.logical_and, usable),
            steep=(gradient != 0).any(axis=(1, 2, 3)),
            forwards=spent,
            backwards=spent,
            random=random,
            # Losses on different draws do not tell which iterate is better: the luckiest draw would win.
            eligible=last if random or not self.sees_target else True,
        )

        def move(found, rule_state, current, image, epsilon, length):
            descent = {name: -jnp.where(jnp.isfinite(leaf), leaf, 0) for name, leaf in found.items()}
            updates = descent.pop("updates")
            direction, rule_state = rule.update(updates, rule_state, current, **descent)
            return ball(self.norm).inside(current + length * direction, image, epsilon), rule_state

        current, rule_state = jax.vmap(move)(found, rule_state, current, clean, epsilon, length)
        return State(best=best, loss=loss, current=current, rule=rule_state)

    def at_clean(self, problem: Problem, state: State) -> State | None:
        """Return the state whose current iterate is the clean image."""
        return state._replace(current=jnp.copy(problem.images)) if self.random_start else None

    def _begin(self, problem: Problem, restart: Any) -> Any:
        if not self.random_start:
            return problem.images

        def begin(image, key, epsilon):
            return jnp.clip(image + self.start(image, key, epsilon), 0, 1)

        return jax.vmap(begin)(problem.images, _keys.stream(problem.keys, "start", restart=restart), problem.epsilon)

    def _gradient(self, target: Any, problem: Problem, shown: Callable, images: Any, keys: Any) -> tuple[Any, Any, Any]:
        judge = losses.resolve(self.loss)

        def of_outputs(outputs):
            return judge(outputs, problem.labels, problem.targets)

        return loss_and_gradient(self, target, images, keys, of_outputs, shown=lambda moved: shown(moved, keys))


@pytree_dataclass
class PGD(GradientAttack):
    """Projected gradient descent: random start, steps of ε/4 in the steepest direction, projection onto the ball.

    Source: Madry et al. 2018 (arXiv 1706.06083). Forty steps and a quarter of ε are our choice, the budget at which the
    figures of this project are compared.
    """


@pytree_dataclass
class AdamPGD(PGD):
    """Projected gradient descent by Adam.

    Source: Kingma and Ba 2015 (arXiv 1412.6980). Gradients are first divided by their mean absolute value, our choice:
    those of a confident network are far below the constant that Adam adds to its divisor. Adam moves each pixel by
    about 1, so its direction is divided by the norm of ones.
    """

    update: Callable = static(optax.adam)

    def rule(self) -> optax.GradientTransformation:
        """Normalise, follow Adam, and give its direction a length near 1."""
        return optax.chain(mean_absolute_one(), super().rule(), per_pixel(self.norm))


@pytree_dataclass
class FGSM(GradientAttack):
    """Fast gradient sign method: one step of the whole ε from the clean image.

    Source: Goodfellow, Shlens and Szegedy 2015 (arXiv 1412.6572).
    """

    steps: int = static(1)
    random_start: bool = static(False)
    step_fraction: float = static(1.0)


@pytree_dataclass
class RFGSM(FGSM):
    """FGSM from a random corner: a random step of α times the sign of noise, then a step of ε − α by the gradient.

    Args:
        random_share: α as a share of epsilon.

    Source: Tramèr et al. 2018 (arXiv 1705.07204), equation 5 with α = ε/2. In the l2 and l1 norms, our extension, the
    random step has a random direction.
    """

    random_share: Scalar = 0.5
    random_start: bool = static(True)

    def check(self):
        """Refuse what is no share."""
        super().check()
        check_share("random_share", self.random_share)

    def start(self, image: Any, key: Any, epsilon: Any) -> Any:
        """Return a random perturbation of the largest size that the random step has."""
        share = jnp.asarray(self.random_share, epsilon.dtype)
        return ball(self.norm).corner(key, image.shape, image.dtype, share * epsilon)

    def length(self, problem: Problem) -> Any:
        """Return what the random step has left of epsilon."""
        share = jnp.asarray(self.random_share, problem.images.dtype)
        return super().length(problem._replace(epsilon=(1 - share) * problem.epsilon))


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
    value, which its authors' code divides by, differs from it by a constant only, which the sign removes.
    """

    decay: Scalar = 1.0

    def check(self):
        """Refuse a decay below 0."""
        super().check()
        check_size("decay", self.decay)

    def rule(self) -> optax.GradientTransformation:
        """Normalise, accumulate, step in the steepest direction."""
        return optax.chain(mean_absolute_one(), accumulate(self.decay), super().rule())
