"""Auto-PGD: gradient ascent that sets its own step size, and in the l1 norm its own sparsity."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpurify import keys as _keys
from jaxpurify.attacks import apgd_schedule, losses
from jaxpurify.attacks.attack import Attack
from jaxpurify.attacks.checks import check_counts, check_share
from jaxpurify.attacks.draws import averaged, draws_of, loss_and_gradient, search_keys
from jaxpurify.attacks.hyperplane import likeliest_others
from jaxpurify.attacks.norms import ball
from jaxpurify.attacks.result import Best, Problem, blank_best, choose
from jaxpurify.attacks.rules import kth_largest
from jaxpurify.gradients import Expectation
from jaxpurify.models import attribute
from jaxpurify.precision import divided
from jaxpurify.pytrees import PerImage, Scalar, pytree_dataclass, static

# No search has so many steps: the draws that rank the classes are met by no step.
_RANKING = 2**32 - 1


class Top(NamedTuple):
    """The iterate of highest loss in this search, to which it goes back."""

    images: Any
    gradient: Any
    loss: Any


class State(NamedTuple):
    """The search, every leaf with a leading batch axis.

    Attributes:
        best: the iterate kept.
        loss: the loss just met.
        current: the iterate to evaluate next.
        previous: the one before it, or None in the l1 norm, which has no momentum.
        top: the iterate of highest loss in this search.
        schedule: what sets the step, a ``Sparsity`` in the l1 norm and a ``Halving`` elsewhere.
        ranking: the classes to aim at, shape ``(batch, target_classes)``, or None.
    """

    best: Best
    loss: Any
    current: Any
    previous: Any
    top: Top
    schedule: Any
    ranking: Any


@pytree_dataclass
class APGD(Attack):
    """Auto-PGD: momentum, and steps that are halved, from the best point on, where the loss no longer rises.

    With ``target_classes=k`` it is targeted APGD: each of the k likeliest other classes of the clean image is aimed at
    in a search of its own, and an image falls to any class but its own.

    A restart spends ``steps + 1`` evaluations, one an iterate, the start included; an evaluation is one forward and one
    backward pass (``eot.samples`` of each against a random target). Ranking the classes costs one forward pass more.

    Args:
        epsilon: the ball's size, in units of [0, 1], or one for each image, shape ``(images,)``.
        rho: the step is halved at a checkpoint unless this share of the steps before it raised the loss.
        momentum: share of the gradient step in a step; the rest repeats the last move. The l1 search has none.
        eot: the expectation over a random target's keys, or None for one draw a step.
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.
        steps: number of steps; the last iterate is evaluated too.
        restarts: independent searches (of each class); the best image of all is kept.
        loss: ``"cross-entropy"``, ``"dlr"``, ``"margin"``, or ``f(outputs, reference) -> (batch,)``.
        target_classes: how many other classes to aim at in turn; 0 for an untargeted search.
        success: ``f(outputs, reference) -> (batch,) bool``; classification by default.
        large_epsilons: whether the search is led through balls of 3ε (for 30 % of the steps) and 2ε (30 %) to that of
            ε, each starting at the best point of the one before. Advised in the l1 norm.
        trace: whether the result keeps the loss at each step.

    Source: Croce and Hein 2020 (arXiv 2003.01690), algorithm 1, and for l1 Croce and Hein 2021 (arXiv 2103.01208). The
    image kept is the successful one of highest loss, our choice. Against a random target it is the last iterate of a
    restart, as for the other gradient attacks: of a hundred losses on different draws the highest is the luckiest. The
    search still goes back to it at a halving; measured on fresh draws, the two images are equally strong.
    """

    epsilon: PerImage = 8 / 255
    rho: Scalar = 0.75
    momentum: Scalar = 0.75
    eot: Expectation | None = None
    norm: str = static("linf")
    steps: int = static(100)
    restarts: int = static(1)
    loss: str | Callable = static("cross-entropy")
    target_classes: int = static(0)
    success: Callable | None = static(None)
    large_epsilons: bool = static(False)
    trace: bool = static(False)

    def check(self):
        """Refuse sizes, shares and counts that cannot be meant."""
        super().check()
        check_counts(self, "steps")
        check_counts(self, "target_classes", least=0)
        check_share("rho", self.rho)
        check_share("momentum", self.momentum)
        if self.target_classes and callable(self.loss) and self.success is not None:
            raise ValueError(
                "target_classes aims at classes, got a loss and a success of the caller's own: use targets="
            )

    @property
    def evaluations(self) -> int:
        """One an iterate: the starting point and the point after each step."""
        return self.steps + 1

    @property
    def needs_key(self) -> bool:
        """A search starts from a random point."""
        return True

    def blank(self, problem: Problem) -> State:
        """Return a state of the right structure."""
        images, count, dtype = problem.images, problem.images.shape[0], problem.images.dtype

        def nothing(shape=(), kind=dtype):
            return jnp.zeros((count, *shape), kind)

        sparse = self.norm == "l1"
        whole = images.shape[1:]
        return State(
            best=blank_best(images),
            loss=nothing(),
            current=nothing(whole),
            previous=None if sparse else nothing(whole),
            top=Top(nothing(whole), nothing(whole), nothing()),
            schedule=apgd_schedule.blank(count, dtype, sparse=sparse),
            ranking=nothing((self.target_classes,), jnp.int32) if self.target_classes else None,
        )

    def advance(self, target: Any, problem: Problem, state: State, restart: Any, step: Any) -> State:
        """Evaluate loss and gradient at the current iterate, keep the best, set the step at checkpoints, and move."""
        clean = problem.images
        begins, interval, scale, counts = (jnp.asarray(row)[step] for row in self._timetable())
        epsilon = problem.epsilon * scale.astype(clean.dtype)
        ranking = self._ranking(target, problem, state, restart, step)
        current, previous = self._iterate(problem, state, restart, step, begins, epsilon)

        aimed = problem if ranking is None else problem._replace(targets=_at(ranking, restart))
        outputs, loss, gradient = self._gradient(target, aimed, current, restart, step)
        loss, usable = loss.astype(clean.dtype), jnp.isfinite(gradient)
        draws, random = draws_of(self, target), attribute(target, "random")
        ranked = (restart == 0) & (step == 0) & (ranking is not None)
        best = state.best.consider(
            current,
            loss,
            self.answer(outputs, problem),
            random=random,
            eligible=(counts & (step == self.steps)) if random else counts,
            finite=usable.all(axis=(1, 2, 3)),
            steep=(gradient != 0).any(axis=(1, 2, 3)),
            forwards=draws + draws * ranked.astype(jnp.int32),
            backwards=draws,
        )
        gradient = jnp.where(usable, gradient, jnp.zeros_like(gradient))

        top = _higher(state.top, Top(current, gradient, loss), begins)
        now = apgd_schedule.Now(step == 0, begins, interval, epsilon, self.rho)
        if self.norm == "l1":
            plan: Any = apgd_schedule.sparsen(state.schedule, now, top.images - clean)
        else:
            plan = apgd_schedule.halve(state.schedule, now, loss > state.loss, top.loss)
        schedule, back = plan
        moving, gradient = choose(back, top.images, current), choose(back, top.gradient, gradient)
        after = self._moved(moving, previous, gradient, clean, epsilon, schedule, begins)
        return State(best, loss, after, None if self.norm == "l1" else current, top, schedule, ranking)

    def at_clean(self, problem: Problem, state: State) -> State:
        """Return the state whose current iterate is the clean image."""
        return state._replace(current=jnp.copy(problem.images))

    def _timetable(self) -> apgd_schedule.Timetable:
        return apgd_schedule.timetable(self.steps, sparse=self.norm == "l1", large_epsilons=self.large_epsilons)

    def _ranking(self, target, problem, state, restart, step):
        """Return the likeliest other classes of the clean images, found out once."""
        if not self.target_classes:
            return None

        def rank():
            keys = None if problem.keys is None else _keys.stream(problem.keys, "search", step=_RANKING)
            outputs = averaged(self, target, problem.images, keys, lambda logits: logits[:, 0])[1]
            return likeliest_others(outputs, problem.labels, count=self.target_classes)

        return jax.lax.cond((restart == 0) & (step == 0), rank, lambda: state.ranking)

    def _iterate(self, problem, state, restart, step, begins, epsilon):
        """Return what to evaluate and what was before it; a stage begins at random or at the best of the one before."""
        clean, inside = problem.images, jax.vmap(ball(self.norm).inside, in_axes=(0, 0, 0))

        def start():
            keys = _keys.stream(problem.keys, "start", restart=restart)
            noise = jax.vmap(lambda key, size: _start(self.norm, key, clean.shape[1:], clean.dtype, size))(
                keys, epsilon
            )
            return inside(clean + noise, clean, epsilon)

        def begin():
            if not self.large_epsilons:
                return start()
            return jax.lax.cond(step == 0, start, lambda: inside(state.top.images, clean, epsilon))

        return jax.lax.cond(begins, begin, lambda: state.current), state.previous

    def _gradient(self, target, problem, current, restart, step):
        keys = search_keys(self, problem, restart, step)
        judge = losses.resolve(self.loss)

        def of_outputs(outputs):
            return judge(outputs, problem.labels, problem.targets)

        return loss_and_gradient(self, target, current, keys, of_outputs)

    def _moved(self, current, previous, gradient, clean, epsilon, schedule, begins):
        within = ball(self.norm)

        def sparse(image, slope, origin, epsilon, length, entries):
            largest = jnp.abs(slope) >= kth_largest(jnp.abs(slope), entries)
            direction = jnp.where(largest, jnp.sign(slope), jnp.zeros_like(slope))
            share = length / jnp.maximum(jnp.abs(direction).sum(), 1)
            return within.inside(image + share * direction, origin, epsilon)

        if self.norm == "l1":
            return jax.vmap(sparse)(current, gradient, clean, epsilon, schedule.length, schedule.entries)
        share = jnp.where(begins, 1, jnp.asarray(self.momentum, epsilon.dtype))

        def smooth(image, before, slope, origin, epsilon, length):
            step = within.inside(image + length * within.direction(slope), origin, epsilon)
            return within.inside(image + share * (step - image) + (1 - share) * (image - before), origin, epsilon)

        return jax.vmap(smooth)(current, previous, gradient, clean, epsilon, schedule.length)


def _start(norm: str, key: Any, shape: tuple[int, ...], dtype: Any, epsilon: Any) -> Any:
    """Return a random perturbation: uniform up to the edge in linf, else Gaussian (of length ε in l2)."""
    if norm == "linf":
        noise = jax.random.uniform(key, shape, dtype, -1, 1)
        return divided(noise, jnp.abs(noise).max()) * epsilon
    return ball("l2").corner(key, shape, dtype, epsilon) if norm == "l2" else jax.random.normal(key, shape, dtype)


def _higher(old: Top, new: Top, begins: Any) -> Top:
    """Return the iterate of the higher loss; one that is not finite is taken for the lowest."""
    lowest = jnp.full_like(new.loss, -jnp.inf)
    new = new._replace(loss=jnp.where(jnp.isfinite(new.loss), new.loss, lowest))
    better = begins | (new.loss > old.loss)
    return jax.tree.map(lambda one, other: choose(better, one, other), new, old)


def _at(ranking: Any, restart: Any) -> Any:
    """Return the classes that a search aims at."""
    number = restart % jnp.uint32(ranking.shape[1])
    return jax.lax.dynamic_index_in_dim(ranking, number, axis=1, keepdims=False)
