"""Attacks on many images, in two products that are kept apart.

``run`` spends the full budget and returns images, which may be shown to any model. ``verdict`` answers one question,
*does this very model fall?*, and returns no images: fooled images leave, the rest is compacted, and it ends when none
is left. Images stopped at their first success would make any other model look robust.
"""

import warnings
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxpurify.attacks.attack import Attack, advance, distinct
from jaxpurify.attacks.batches import bucket_sizes, in_batches, in_buckets, take
from jaxpurify.attacks.cascade import Cascade
from jaxpurify.attacks.result import AttackResult, Best
from jaxpurify.attacks.scoring import fooling_draws, worst
from jaxpurify.metrics.norms import check_perturbations
from jaxpurify.models import as_target, attribute
from jaxpurify.parallel import placement


class Verdict(NamedTuple):
    """Which images of this very model fall.

    Attributes:
        fooled: whether some point of the ball was found that succeeds, the clean image included, shape ``(images,)``;
            for a random target, whether most fresh draws are.
        forwards: forward passes spent up to the first success, shape ``(images,)``: for black-box attacks, the queries.
        backwards: backward passes spent, shape ``(images,)``.
        status: index into ``STATUS``, shape ``(images,)``.
        stood: share of fresh draws that stand, shape ``(images,)``; 0 or 1 for a deterministic target.
        tallies: for a cascade, how many images each of its attacks felled, in its order; None for a single attack.
    """

    fooled: np.ndarray
    forwards: np.ndarray
    backwards: np.ndarray
    status: np.ndarray
    stood: np.ndarray
    tallies: dict[str, int] | None = None

    @property
    def robust_accuracy(self) -> float:
        """Share of all images that stand; of those that met outputs that are not finite nothing is proved."""
        return float((~self.fooled & (self.status != 2)).mean())

    @property
    def draw_accuracy(self) -> float:
        """Mean share of draws in which an image stands: the first figure to report of a random target."""
        return float(self.stood.mean())


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
    for rows, part in in_batches(problem, batch_size * where.count):
        best, trace = attack.search(target, part, where=where, progress=progress)
        result = jax.tree.map(np.asarray, attack.result(best, where.put(part), trace))
        parts.append(jax.tree.map(lambda leaf, rows=rows: leaf[: len(rows)], result))
    result = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    check_perturbations(problem.images, result.images, norm=attack.norm, epsilon=attack.epsilon)
    warn_of_outputs(result.probabilities, result.status == 2)
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

    The attacks of a cascade run one after another on the images still standing.

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
    if isinstance(attack, Cascade):
        options = {"batch_size": batch_size, "devices": where.devices, "progress": progress}
        return _cascade_verdict(attack, target, problem, where, options)
    if attribute(target, "random") or attribute(target, "couples_images") or not attack.sees_target:
        return _full_budget_verdict(attack, target, problem, batch_size, where, progress)
    sizes = bucket_sizes(batch_size * where.count, where.count)
    tally = _Tally(count)
    for rows, part in in_buckets(problem, sizes):
        _decide(attack, target, part, rows, sizes, tally, where, progress)
    warn_of_outputs(tally.probabilities, ~tally.finite & ~tally.fooled)
    return tally.verdict()


def warn_of_outputs(probabilities: np.ndarray, unproved: np.ndarray) -> None:
    """Warn where all outputs that a search met look like probabilities, and where no image met finite ones alone.

    Args:
        probabilities: one flag an image.
        unproved: whether an image stands only because outputs or gradients were not finite.
    """
    if unproved.size and unproved.all():
        warnings.warn(
            "the target's outputs or gradients are NaN or infinite at every image, so nothing is proved: are its "
            "weights loaded?",
            stacklevel=3,
        )
    if probabilities.size and probabilities.all():
        warnings.warn(
            "the target's outputs are non-negative and sum to one: give logits, since the softmax of probabilities "
            "hides gradients",
            stacklevel=3,
        )


class _Tally:
    """What is known of each image while a verdict is reached."""

    def __init__(self, count: int):
        self.fooled, self.finite, self.probabilities = np.zeros(count, bool), np.ones(count, bool), np.ones(count, bool)
        self.forwards, self.backwards = np.zeros(count, np.int32), np.zeros(count, np.int32)

    def note(self, rows: np.ndarray, best: Best) -> None:
        """Take down the first images of a batch as they are now."""
        count = len(rows)
        best = jax.tree.map(lambda leaf: np.asarray(leaf)[:count], best._replace(images=best.loss))
        still = rows[~self.fooled[rows]]
        forwards, backwards = np.zeros_like(self.forwards), np.zeros_like(self.backwards)
        forwards[rows], backwards[rows] = np.where(best.decided > 0, best.decided, best.forwards), best.backwards
        self.forwards[still], self.backwards[still] = forwards[still], backwards[still]
        self.finite[rows], self.probabilities[rows] = best.finite, best.probabilities
        self.fooled[rows] |= best.success

    def verdict(self, stood: np.ndarray | None = None, tallies: dict[str, int] | None = None) -> Verdict:
        """Return the verdict, for a deterministic target unless it is told in what share of draws images stand."""
        status = np.where(self.fooled, 1, np.where(self.finite, 0, 2)).astype(np.int32)
        stood = 1.0 - self.fooled if stood is None else stood
        return Verdict(self.fooled, self.forwards, self.backwards, status, stood, tallies)


def _decide(attack, target, problem, rows, sizes, tally, where, progress):
    """Drive one batch until none stands."""
    attack, target = where.everywhere((attack.canonical(problem.images.dtype), target))
    run = where.compile(advance, per_image=(False, False, True, True, False, False), donate=(3,))
    state = distinct(attack.blank(problem))
    standing = np.arange(len(rows))
    whole, size = problem, problem.images.shape[0]
    problem, state = where.put(problem), where.put(state)
    for restart in range(attack.searches):
        for step in range(attack.evaluations):
            state = run(attack, target, problem, state, np.uint32(restart), np.uint32(step))
            if progress is not None:
                progress()
            gone = np.asarray(state[0].success | attack.finished(state))[: len(standing)]
            if not gone.any():
                continue
            tally.note(rows[standing], state[0])
            left = np.flatnonzero(~gone)
            if not len(left):
                return
            smaller = min(s for s in sizes if s >= len(left))
            if smaller < size:
                # Gathered on the host: a device gather would compile once a pair of sizes.
                kept = np.resize(left, smaller)
                state = where.put(take(state, kept))
                standing, size = standing[left], smaller
                problem = where.put(take(whole, np.resize(standing, size)))
    # Wrong on the clean image and right on every iterate: rare, but not robust by definition.
    at_clean = attack.at_clean(problem, state)
    if at_clean is not None:
        state = run(attack, target, problem, at_clean, np.uint32(0), np.uint32(attack.evaluations))
    tally.note(rows[standing], state[0])


def _full_budget_verdict(attack, target, problem, batch_size, where, progress):
    """Judge what full-budget searches find, and the clean images, on draws that they have not seen."""
    tally, stood = _Tally(problem.images.shape[0]), np.ones(problem.images.shape[0])
    for rows, part in in_batches(problem, batch_size * where.count):
        best, _ = attack.search(target, part, where=where, progress=progress)
        tally.note(rows, best._replace(decided=np.zeros(len(part.images), np.int32)))
        # Wrong on the clean image is not robust either.
        stood[rows] = worst(attack, target, part, (best.images, part.images), where=where)[1][: len(rows)]
    tally.fooled = stood < 0.5
    warn_of_outputs(tally.probabilities, ~tally.finite & ~tally.fooled)
    return tally.verdict(stood)


def _cascade_verdict(cascade, target, problem, where, options):
    """Hand the images still standing from one attack of a cascade to the next."""
    size = options["batch_size"] * where.count
    count = problem.images.shape[0]
    parts = cascade.parts_of(target, problem)
    if attribute(target, "random") or attribute(target, "couples_images"):
        return _worst_of_parts(cascade, target, parts, problem, where, options)
    tally = _Tally(count)
    tally.fooled = _judged(cascade, target, problem, problem.images, size, where)
    tally.forwards += 1  # the pass that judges the clean image
    tallies = {"clean": int(tally.fooled.sum())}
    for part in parts:
        rows = np.flatnonzero(~tally.fooled)
        if len(rows):
            left = take(problem, rows)
            arguments = (part.target, left.images, left.labels, left.keys, left.targets)
            if part.target is target:
                found: Any = verdict(part.attack, *arguments, **options)
                tally.fooled[rows] = found.fooled
            else:
                found = run(part.attack, *arguments, **options)
                tally.fooled[rows] = _judged(cascade, target, left, found.images, size, where)
                tally.forwards[rows] += 1
            tally.finite[rows] &= found.status != 2
            tally.forwards[rows] += found.forwards
            tally.backwards[rows] += found.backwards
        tallies[part.name] = int(tally.fooled.sum()) - sum(tallies.values())
    return tally.verdict(tallies=tallies)


def _judged(cascade, target, problem, images, size, where):
    """Say which images the target itself gets wrong."""
    fooled = np.zeros(len(images), bool)
    for rows, part in in_batches(problem._replace(images=images), size):
        fooled[rows] = fooling_draws(cascade, target, part, part.images, where=where)[0][: len(rows)]
    return fooled


def _worst_of_parts(cascade, target, parts, problem, where, options):
    """Spend the full budget of all parts, choose the worst image on some draws and judge it on others."""
    count, size = problem.images.shape[0], options["batch_size"] * where.count
    arguments = (problem.images, problem.labels, problem.keys, problem.targets)
    results = [run(part.attack, part.target, *arguments, **options) for part in parts]
    candidates = np.stack([np.asarray(problem.images), *(result.images for result in results)])
    chosen, stood = np.zeros(count, int), np.zeros(count)
    for rows, part in in_batches(problem, size):
        images = [take(images[rows], np.resize(np.arange(len(rows)), size)) for images in candidates]
        chosen[rows], stood[rows] = (value[: len(rows)] for value in worst(cascade, target, part, images, where=where))
    tally = _Tally(count)
    tally.fooled = stood < 0.5
    names = ["clean", *(part.name for part in parts)]
    tallies = {name: int((tally.fooled & (chosen == number)).sum()) for number, name in enumerate(names)}
    for result in results:
        tally.forwards += result.forwards
        tally.backwards += result.backwards
        tally.finite &= result.status != 2
    return tally.verdict(stood, tallies)
