"""Attacks on many images, in two products that are kept apart.

``run`` spends the full budget and returns images, which may be shown to any model. ``verdict`` answers one question,
*does this very model fall?*, and returns no images: fooled images leave, the rest is compacted, and it ends when none
is left. Images stopped at their first success would make any other model look robust.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import keys as _keys
from jaxpurify.attacks import losses
from jaxpurify.attacks.attack import Attack, advance
from jaxpurify.attacks.result import AttackResult, Problem
from jaxpurify.metrics.norms import check_perturbations
from jaxpurify.models import as_target, attribute
from jaxpurify.parallel import Placement, placement

DRAWS = 20


class Verdict(NamedTuple):
    """Which images of this very model fall.

    Attributes:
        fooled: whether some point of the ball was found that succeeds, the clean image included, shape ``(images,)``.
        forwards: forward passes spent, shape ``(images,)``.
        backwards: backward passes spent, shape ``(images,)``.
        status: index into ``STATUS``, shape ``(images,)``.
    """

    fooled: np.ndarray
    forwards: np.ndarray
    backwards: np.ndarray
    status: np.ndarray

    @property
    def robust_accuracy(self) -> float:
        """Share of all images that stand."""
        return float(1 - self.fooled.mean())


def bucket_sizes(batch: int, devices: int = 1) -> tuple[int, ...]:
    """Return the sizes, at most four, to which a shrinking batch is compacted.

    Args:
        batch: images in a full batch.
        devices: number of devices, of which every size is a multiple.

    Returns:
        Sizes in descending order: the whole, three quarters, three eighths and an eighth. Our choice: the first steps
        of a strong attack remove most images, and the later ones matter where a quarter or half has gone.
    """
    sizes = {devices * -(-batch * eighths // (8 * devices)) for eighths in (8, 6, 3, 1)}
    return tuple(sorted(sizes, reverse=True))


def run(
    attack: Attack,
    target: Any,
    images: Any,
    labels: Any,
    key: Any = None,
    targets: Any = None,
    *,
    batch_size: int = 128,
    devices: Any = None,
    progress: Any = None,
) -> AttackResult:
    """Attack any number of images with the full budget, in batches of one compiled size over one or more devices.

    Args:
        attack: the attack.
        target: what is attacked.
        images: clean images, float32, shape ``(images, height, width, channel)``, in [0, 1].
        labels: integers of shape ``(images,)``.
        key: one typed key, or one an image.
        targets: classes to reach, shape ``(images,)``, or None.
        batch_size: images in each device's program. The last batch is filled up, so that it compiles nothing new.
        devices: None, ``"all"``, a number, or devices; results do not depend on it.
        progress: called after each compiled call, or None.

    Returns:
        One result for all images, its arrays on the host.

    Raises:
        ValueError: on bad arguments, or if the result fails the independent check of range and norm.
    """
    target, where = as_target(target), placement(devices)
    problem = attack.prepare(target, images, labels, key, targets)
    parts = []
    for rows, part in _batches(problem, batch_size * where.count):
        best, trace = attack.search(target, part, where=where, progress=progress)
        result = jax.tree.map(np.asarray, attack.result(target, best, where.put(part), trace))
        parts.append(jax.tree.map(lambda leaf, rows=rows: leaf[: len(rows)], result))
    result = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    check_perturbations(problem.images, result.images, norm=attack.norm, epsilon=attack.epsilon)
    return result


def verdict(
    attack: Attack,
    target: Any,
    images: Any,
    labels: Any,
    key: Any = None,
    targets: Any = None,
    *,
    batch_size: int | None = None,
    devices: Any = None,
    progress: Any = None,
) -> Verdict:
    """Say which images fall, ending early: images already fooled leave and the rest is compacted.

    For a random target nothing ends early, because a lucky draw is no success: the full budget is spent and an image
    counts as fooled if most of 20 fresh draws are. Nor does anything end early where the target couples the images of
    a batch, or where the attack searches through a transformation of them: there the image found is judged.

    Args:
        attack: the attack.
        target: what is attacked.
        images: clean images, float32, shape ``(images, height, width, channel)``, in [0, 1].
        labels: integers of shape ``(images,)``.
        key: one typed key, or one an image.
        targets: classes to reach, shape ``(images,)``, or None.
        batch_size: images in each device's program; by default 128, or 32 where no device has more, so that calls with
            other numbers of images compile nothing new.
        devices: None, ``"all"``, a number, or devices.
        progress: called after each compiled call, or None.

    Returns:
        The verdict, without images: for images to show to another model use the attack itself or ``run``.

    Raises:
        ValueError: on bad arguments.
    """
    target, where = as_target(target), placement(devices)
    problem = attack.prepare(target, images, labels, key, targets)
    count = problem.images.shape[0]
    batch_size = (32 if count <= 32 * where.count else 128) if batch_size is None else batch_size
    if attribute(target, "random") or attribute(target, "couples_images") or not attack.sees_target:
        return _full_budget_verdict(attack, target, problem, batch_size, where, progress)
    fooled, status = np.zeros(count, bool), np.zeros(count, np.int32)
    calls = np.zeros(count, np.int32)
    sizes = bucket_sizes(batch_size * where.count, where.count)
    for rows, part in _batches(problem, sizes[0]):
        # A last batch starts in the smallest bucket that holds it.
        size = min(size for size in sizes if size >= len(rows))
        part = _take(part, np.arange(size)) if size < sizes[0] else part
        _decide(attack, target, part, rows, sizes, fooled, status, calls, where, progress)
    forwards, backwards = (calls * passes for passes in attack.cost(target))
    return Verdict(fooled, forwards, backwards, np.where(fooled, 1, status))


def _decide(attack, target, problem, rows, sizes, fooled, status, calls, where, progress):
    """Drive one batch until none stands; writes into ``fooled``, ``status`` and ``calls`` at ``rows``."""
    attack, target = where.everywhere((attack.canonical(problem.images.dtype), target))
    run = where.compile(advance, per_image=(False, False, True, True, False, False), donate=(3,))
    state = attack.blank(problem)
    standing = np.arange(len(rows))
    whole, size = problem, problem.images.shape[0]
    problem, state = where.put(problem), where.put(state)
    for restart in range(attack.restarts):
        for step in range(attack.evaluations):
            state = run(attack, target, problem, state, np.uint32(restart), np.uint32(step))
            calls[rows[standing]] += 1
            success, finite = (np.asarray(flag)[: len(standing)] for flag in (state[0].success, state[0].finite))
            fooled[rows[standing[success]]] = True
            status[rows[standing[~finite]]] = 2
            if progress is not None:
                progress()
            if not success.any():
                continue
            left = np.flatnonzero(~success)
            if not len(left):
                return
            smaller = min(s for s in sizes if s >= len(left))
            if smaller < size:
                # Gathered on the host: a device gather would compile once a pair of sizes.
                kept = np.resize(left, smaller)
                state = where.put(_take(state, kept))
                standing, size = standing[left], smaller
                problem = where.put(_take(whole, np.resize(standing, size)))
    # Wrong on the clean image and right on every iterate: rare, but not robust by definition.
    state = attack.at_clean(problem, state)
    if state is None:
        return
    state = run(attack, target, problem, state, np.uint32(0), np.uint32(attack.evaluations))
    fooled[rows[standing]] |= np.asarray(state[0].success)[: len(standing)]
    calls[rows[standing]] += 1


def _full_budget_verdict(attack, target, problem, batch_size, where, progress):
    count = problem.images.shape[0]
    fooled, status = np.zeros(count, bool), np.zeros(count, np.int32)
    for rows, part in _batches(problem, batch_size * where.count):
        best, _ = attack.search(target, part, where=where, progress=progress)
        for judged in (best.images, part.images):  # wrong on the clean image is not robust either
            success = fooling_draws(attack, target, part, judged, where=where)
            fooled[rows] |= (success.mean(axis=0) > 0.5)[: len(rows)]
        status[rows] = np.where(np.asarray(best.finite)[: len(rows)], 0, 2)
    spent = np.full(count, attack.restarts * attack.evaluations, np.int32)
    forwards, backwards = (spent * passes for passes in attack.cost(target))
    return Verdict(fooled, forwards, backwards, np.where(fooled, 1, status))


def fooling_draws(
    attack: Attack,
    target: Any,
    problem: Problem,
    images: Any,
    *,
    where: Placement,
    purpose: str = "score",
    draws: int = DRAWS,
) -> np.ndarray:
    """Judge images on keys that no search has seen.

    Args:
        attack: decides what success is.
        target: the target; a deterministic one is judged once.
        problem: labels, targets and keys.
        images: what is judged, shape ``(batch, height, width, channel)``.
        where: the devices.
        purpose: ``"score"`` for what is reported, ``"select"`` for choosing among attacks.
        draws: draws for a random target.

    Returns:
        Booleans of shape ``(draws, batch)``; one row for a deterministic target.
    """
    judge = where.compile(_judge, per_image=(False, False, True, True, True))
    target, success = where.everywhere(target), attack.judgement()
    placed, images = where.put(problem), where.put(images)
    if not attribute(target, "random"):
        return np.asarray(judge(success, target, placed, images, None))[None]
    rows = []
    for draw in range(draws):
        keys = where.put(_keys.stream(problem.keys, purpose, draw=draw))
        rows.append(judge(success, target, placed, images, keys))
    return np.stack([np.asarray(row) for row in rows])


def _judge(success, target, problem, images, keys):
    return losses.succeeded(success.function, target(images, keys), problem.labels, problem.targets)


def _batches(problem: Problem, size: int):
    """Yield row numbers and problems of exactly ``size`` images, the last one filled up with copies."""
    count = problem.images.shape[0]
    problem = jax.tree.map(lambda leaf: leaf if _is_key(leaf) else np.asarray(leaf), problem)
    for first in range(0, count, size):
        rows = np.arange(first, min(first + size, count))
        yield rows, problem if len(rows) == size == count else _take(problem, np.resize(rows, size))


def _take(tree: Any, rows: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows] if _is_key(leaf) else np.asarray(leaf)[rows], tree)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
