"""When Auto-PGD reconsiders its step, and by what rule.

What depends on the step's number alone (stages, checkpoints, sizes of the ball) stands in a table that is made once;
what depends on how an image's loss went is kept an image, so that images never wait for each other.
"""

import functools
import itertools
import math
from fractions import Fraction
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

# In l1 a step moves at first SHARE of the entries, later as many as the best point has moved divided by FEWER. The best
# point has shed entries if it has below SHED of those it had; else the step is divided by SHORTER, down to ε/SHORTEST.
SHARE, FEWER, SHED, SHORTER, SHORTEST = 0.2, 1.5, 0.95, 1.5, 10.0


class Now(NamedTuple):
    """The search at one step.

    Attributes:
        first: whether the restart begins.
        begins: whether a stage begins.
        interval: at a checkpoint the number of steps since the last one, elsewhere 0.
        epsilon: size of the ball.
        rho: share of the steps that must raise the loss.
    """

    first: Any
    begins: Any
    interval: Any
    epsilon: Any
    rho: Any


class Halving(NamedTuple):
    """What sets the step size in the linf and l2 norms, an image.

    Attributes:
        length: the step size.
        rises: iterates since the last checkpoint whose loss exceeded the one before.
        checked: the highest loss at the last checkpoint.
        halved: whether the step was halved there.
    """

    length: Any
    rises: Any
    checked: Any
    halved: Any


class Sparsity(NamedTuple):
    """What sets step size and sparsity in the l1 norm, an image.

    Attributes:
        length: the step size.
        entries: how many entries a step moves.
        support: how many entries the best point had moved at the last checkpoint.
    """

    length: Any
    entries: Any
    support: Any


class Timetable(NamedTuple):
    """What happens at each step, arrays of shape ``(steps + 2,)``; the last entry is for the clean image.

    Attributes:
        begins: whether a stage begins.
        interval: at a checkpoint the number of steps since the last one, elsewhere 0.
        scale: the size of the ball in units of epsilon.
        counts: whether the ball is the one that was asked for, so that iterates may be kept.
    """

    begins: np.ndarray
    interval: np.ndarray
    scale: np.ndarray
    counts: np.ndarray


def checkpoints(steps: int) -> tuple[int, ...]:
    """Return after which steps the step size is reconsidered.

    Args:
        steps: number of steps in the search.

    Returns:
        The numbers w of the paper, in ascending order and without repetition, the first of them 0.

    Source: Croce and Hein 2020 (arXiv 2003.01690), section 3.3: the intervals shrink from 22 % of the steps by 3 % each
    to 6 %.
    """
    share, period, found = Fraction(0), Fraction(22, 100), []
    while share <= 1:
        found.append(math.ceil(share * steps))
        share, period = share + period, max(period - Fraction(3, 100), Fraction(6, 100))
    return tuple(sorted(set(found)))


@functools.lru_cache
def timetable(steps: int, *, sparse: bool, large_epsilons: bool) -> Timetable:
    """Return what happens at each step.

    Args:
        steps: number of steps.
        sparse: whether checkpoints are those of the l1 norm, every 4 % of the steps of a stage.
        large_epsilons: whether stages in larger balls come first.

    Returns:
        The table.
    """
    begins, interval = np.zeros(steps + 2, bool), np.zeros(steps + 2, np.int32)
    scale, counts = np.ones(steps + 2), np.ones(steps + 2, bool)
    third = 3 * steps // 10
    starts = {0: 3.0, third: 2.0, 2 * third: 1.0} if large_epsilons else {0: 1.0}
    for start, size in starts.items():
        end = steps if size == 1 else start + third
        length = end - start
        marks = range(0, length + 1, max(length // 25, 1)) if sparse else checkpoints(length)
        interval[start:] = 0
        for last, mark in itertools.pairwise(marks):
            interval[start + mark] = mark - last
        begins[start], interval[start] = True, 0
        scale[start:], counts[start:] = size, size == 1
    interval[-1] = 0
    return Timetable(begins, interval, scale, counts)


def blank(count: int, dtype: Any, *, sparse: bool) -> Any:
    """Return a schedule of the right structure.

    Args:
        count: number of images.
        dtype: of the images.
        sparse: whether it is that of the l1 norm.

    Returns:
        Zeros.
    """
    kind, kinds = (Sparsity, (dtype, jnp.int32, jnp.int32)) if sparse else (Halving, (dtype, jnp.int32, dtype, bool))
    return kind(*(jnp.zeros((count,), one) for one in kinds))


def halve(old: Halving, now: Now, rose: Any, top_loss: Any) -> tuple[Halving, Any]:
    """Halve the step where too few steps raised the loss, or where neither step nor highest loss has changed.

    Args:
        old: the schedule so far.
        now: where the search is.
        rose: whether the loss exceeds the one before, shape ``(batch,)``.
        top_loss: the highest loss of the search, shape ``(batch,)``.

    Returns:
        The schedule, and which images go back to their iterate of highest loss.

    Source: Croce and Hein 2020 (arXiv 2003.01690), section 3.3, conditions 1 and 2.
    """
    rises, noted = old.rises + rose.astype(jnp.int32), now.begins | (now.interval > 0)
    dtype = top_loss.dtype
    few = rises.astype(dtype) < jnp.asarray(now.rho, dtype) * now.interval.astype(dtype)
    back = (now.interval > 0) & (few | (~old.halved & (top_loss == old.checked)))
    shorter = jnp.where(back, old.length / 2, old.length)
    return Halving(
        length=jnp.where(now.begins, 2 * now.epsilon, shorter),
        rises=jnp.where(noted, jnp.zeros_like(rises), rises),
        checked=jnp.where(noted, top_loss, old.checked),
        halved=jnp.where(noted, back, old.halved),
    ), back


def sparsen(old: Sparsity, now: Now, perturbation: Any) -> tuple[Sparsity, Any]:
    """Move fewer entries than the best point has; where that has shed many, go back to it with a whole step.

    Args:
        old: the schedule so far.
        now: where the search is.
        perturbation: of the iterate of highest loss, shape ``(batch, height, width, channel)``.

    Returns:
        The schedule, and which images go back to their iterate of highest loss.

    Source: Croce and Hein 2021 (arXiv 2103.01208), section 4.1. Rounding the entries down, and not taking a change in
    the last digit for a move, are our choice: else two entries could never become one.
    """
    dtype, size, noted = perturbation.dtype, math.prod(perturbation.shape[1:]), now.begins | (now.interval > 0)
    moved = jnp.count_nonzero(jnp.abs(perturbation) > 3 * jnp.finfo(dtype).eps, axis=(1, 2, 3)).astype(jnp.int32)
    shed = (now.interval > 0) & (moved.astype(dtype) < SHED * old.support.astype(dtype))
    shorter = jnp.maximum(old.length / SHORTER, now.epsilon / SHORTEST)
    length = jnp.where(noted & ~shed, shorter, old.length)
    entries = jnp.maximum(jnp.floor(moved.astype(dtype) / FEWER), 1).astype(jnp.int32)
    # A random start says nothing of how many entries are worth moving.
    entries = jnp.where(now.first, jnp.full_like(entries, math.ceil(SHARE * size)), entries)
    moved = jnp.where(now.first, jnp.full_like(moved, size), moved)
    return Sparsity(
        length=jnp.where(now.begins | shed, now.epsilon, length),
        entries=jnp.where(noted, entries, old.entries),
        support=jnp.where(noted, moved, old.support),
    ), shed
