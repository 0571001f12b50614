"""Attacks on many images, in two products that are kept apart.

``run`` spends the full budget and returns images, which may be shown to any model. ``verdict`` answers one question,
*does this very model fall?*, and returns no images: fooled images leave, the rest is compacted, and it ends when none
is left. Images stopped at their first success would make any other model look robust.
"""

import warnings
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxpurify.attacks.agreement import Agreement, measure
from jaxpurify.attacks.attack import advance, distinct
from jaxpurify.attacks.batches import bucket_sizes, capped, in_batches, in_buckets, take
from jaxpurify.attacks.cascade import Cascade
from jaxpurify.attacks.checks import check_is_attack
from jaxpurify.attacks.result import FOOLED, NOT_FINITE, SURVIVED, UNRELIABLE, AttackResult, Best
from jaxpurify.attacks.scoring import judged, worst
from jaxpurify.attacks.tracing import differentiable
from jaxpurify.checks import check_batch_size
from jaxpurify.independence import check_independence
from jaxpurify.metrics.accuracy import robust_accuracy
from jaxpurify.metrics.norms import check_perturbations
from jaxpurify.models import as_target, attribute
from jaxpurify.parallel import placement


class Verdict(NamedTuple):
    """Which images of this very model fall.

    Attributes:
        fooled: whether some point of the ball was found that succeeds, the clean image included, shape ``(images,)``;
            for a random target, whether most fresh draws are fooled.
        forwards: forward passes spent up to the first success, shape ``(images,)``: for black-box attacks, the queries.
        backwards: backward passes spent, shape ``(images,)``.
        status: index into ``STATUS``, shape ``(images,)``.
        stood: share of fresh draws that stand, shape ``(images,)``; 0 or 1 for a deterministic target. 0 where outputs
            or gradients were NaN, since nothing is proved there.
        tallies: for a cascade, how many images each of its attacks felled, in its order; None for a single attack.
        agreement: how well the target's gradients say what it does; None where it was not measured, as for attacks
            without gradients.
    """

    fooled: np.ndarray
    forwards: np.ndarray
    backwards: np.ndarray
    status: np.ndarray
    stood: np.ndarray
    tallies: dict[str, int] | None = None
    agreement: Agreement | None = None

    @property
    def robust_accuracy(self) -> float:
        """Share of all images that stand; of those that met outputs that are not finite nothing is proved.

        An upper bound, as every such figure; where there are ``flags``, one that says little.
        """
        return float((~self.fooled & (self.status != NOT_FINITE)).mean())

    @property
    def draw_accuracy(self) -> float:
        """Mean share of draws in which an image stands: the first figure to report of a random target."""
        return float(self.stood.mean())

    @property
    def flags(self) -> list[str]:
        """Sentences without which the figures mislead."""
        found, count = [], int((self.status == NOT_FINITE).sum())
        if self.agreement is not None and not self.agreement.reliable:
            found.append(f"the target: {self.agreement.sentence}; what stands is an upper bound")
        elif zero := int((self.status == UNRELIABLE).sum()):
            found.append(
                f"the target: the gradient of {zero} of {len(self.status)} images that stand was zero where the attack "
                "came to an end; what stands is an upper bound"
            )
        if count:
            found.append(
                f"{count} of {len(self.status)} images met outputs or gradients that are NaN or infinite: nothing is "
                "proved of them, so they do not count as robust"
            )
        return found


def run(
    attack: Any,
    target: Any,
    images: Any,
    labels: Any,
    key: Any = None,
    targets: Any = None,
    *,
    batch_size: Any = 128,
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
    batch_size = check_batch_size(batch_size)
    target, where, problem = _begin(attack, target, images, labels, key, targets, devices)
    return _run(attack, target, problem, capped(batch_size, len(problem.images), where.count), where, progress)


def _begin(attack, target, images, labels, key, targets, devices):
    """Judge what was given, the target included: one whose answers depend on its batch gives no figures."""
    check_is_attack(attack)
    target, where = as_target(target), placement(devices)
    problem = attack.prepare(target, images, labels, key, targets)
    check_independence(target, problem.images, problem.keys, name="the target")
    return target, where, problem


def _run(attack, target, problem, batch_size, where, progress):
    result: Any = None  # all images' arrays, made with the first batch
    for rows, part in in_batches(problem, batch_size * where.count):
        best, trace = attack.search(target, part, where=where, progress=progress)
        found = jax.tree.map(np.asarray, attack.result(best, where.put(part), trace))
        if result is None:
            result = jax.tree.map(lambda leaf: np.empty((len(problem.images), *leaf.shape[1:]), leaf.dtype), found)
        for into, leaf in zip(jax.tree.leaves(result), jax.tree.leaves(found), strict=True):
            into[rows] = leaf[: len(rows)]
    check_perturbations(problem.images, result.images, norm=attack.norm, epsilon=problem.epsilon)
    warn_of_outputs(result.probabilities, result.status == NOT_FINITE)
    return result


def verdict(
    attack: Any,
    target: Any,
    images: Any,
    labels: Any,
    key: Any = None,
    targets: Any = None,
    *,
    batch_size: Any = None,
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
    batch_size = None if batch_size is None else check_batch_size(batch_size)
    target, where, problem = _begin(attack, target, images, labels, key, targets, devices)
    if attack.epsilon is None:
        raise ValueError(
            f"a verdict of {type(attack).__name__} needs epsilon=..., the distance within which success is counted: "
            "without it every image falls"
        )
    count = problem.images.shape[0]
    batch_size = (
        (32 if count <= 32 * where.count else 128) if batch_size is None else capped(batch_size, count, where.count)
    )
    agreement = None
    if attack.uses_gradient or isinstance(attack, Cascade):
        agreement = measure(target, problem.images, problem.keys)
        if agreement is None and not differentiable(target, problem.images):
            agreement = Agreement(rho=(0.0, 0.0), zero=1.0, cosine=0.0, images=0)
    found = _verdict(attack, target, problem, batch_size, where, progress)
    if agreement is not None and not agreement.reliable:
        found = found._replace(status=np.where(found.status == SURVIVED, UNRELIABLE, found.status))
    found = found._replace(agreement=agreement)
    if (found.status == UNRELIABLE).any():
        warnings.warn(found.flags[0], stacklevel=2)
    return found


def _verdict(attack, target, problem, batch_size, where, progress):
    if isinstance(attack, Cascade):
        return _cascade_verdict(attack, target, problem, batch_size, where, progress)
    if attribute(target, "random") or attribute(target, "couples_images") or not attack.sees_target:
        return _full_budget_verdict(attack, target, problem, batch_size, where, progress)
    sizes = bucket_sizes(batch_size * where.count, where.count)
    tally = _Tally(problem.images.shape[0])
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
            stacklevel=4,
        )
    if probabilities.size and probabilities.all():
        warnings.warn(
            "the target's outputs are non-negative and sum to one: give logits, since the softmax of probabilities "
            "hides gradients",
            stacklevel=4,
        )


class _Tally:
    """What is known of each image while a verdict is reached."""

    def __init__(self, count: int):
        self.fooled, self.finite, self.probabilities = np.zeros(count, bool), np.ones(count, bool), np.ones(count, bool)
        self.steep = np.zeros(count, bool)
        self.forwards, self.backwards = np.zeros(count, np.int32), np.zeros(count, np.int32)

    def note(self, rows: np.ndarray, best: Best) -> None:
        """Take down the first images of a batch as they are now."""
        count = len(rows)
        best = jax.tree.map(lambda leaf: np.asarray(leaf)[:count], best._replace(images=best.loss))
        still = rows[~self.fooled[rows]]
        forwards, backwards = np.zeros_like(self.forwards), np.zeros_like(self.backwards)
        forwards[rows], backwards[rows] = np.where(best.decided > 0, best.decided, best.forwards), best.backwards
        self.forwards[still], self.backwards[still] = forwards[still], backwards[still]
        self.finite[rows], self.probabilities[rows], self.steep[rows] = best.finite, best.probabilities, best.steep
        self.fooled[rows] |= best.success

    def verdict(self, stood: np.ndarray | None = None, tallies: dict[str, int] | None = None) -> Verdict:
        """Return the verdict, for a deterministic target unless it is told in what share of draws images stand."""
        stands = np.where(self.steep, SURVIVED, UNRELIABLE)
        status = np.where(self.fooled, FOOLED, np.where(self.finite, stands, NOT_FINITE)).astype(np.int32)
        stood = 1.0 - self.fooled if stood is None else stood
        stood = np.where(status == NOT_FINITE, 0.0, stood)
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
    """Judge what full-budget searches find on draws that they have not seen, and the clean images on the same."""
    count = problem.images.shape[0]
    tally, clean, attacked = _Tally(count), _Stand(count), _Stand(count)
    for rows, part in in_batches(problem, batch_size * where.count):
        best, _ = attack.search(target, part, where=where, progress=progress)
        tally.note(rows, best._replace(decided=np.zeros(len(part.images), np.int32)))
        for stand, images in ((clean, part.images), (attacked, best.images)):
            stand.note(rows, judged(attack, target, part, images, where=where))
    return _capped(tally, clean, attacked, random=attribute(target, "random"))


class _Stand:
    """In what shares of the scored draws images are fooled, and stand."""

    def __init__(self, count: int):
        self.fooled, self.stood = np.zeros(count), np.zeros(count)

    def note(self, rows: np.ndarray, found: Any) -> None:
        """Take down the first images of a batch, of which there are draws or shares."""
        for into, shares in ((self.fooled, found.fooled), (self.stood, found.stood)):
            into[rows] = (shares if shares.ndim == 1 else shares.mean(axis=0))[: len(rows)]


def _capped(tally: _Tally, clean: _Stand, attacked: _Stand, *, random: bool) -> Verdict:
    """Return the verdict of images attacked with the full budget: an attack leaves no more than there was."""
    stood = robust_accuracy(clean.stood, attacked.stood, random=random)
    if random:
        tally.fooled = (attacked if stood.mean() == attacked.stood.mean() else clean).fooled > 0.5
    else:
        tally.fooled = (clean.fooled > 0) | (attacked.fooled > 0)
    # Neither fooled nor standing: NaN in most draws.
    tally.finite &= tally.fooled | (stood >= 0.5)
    warn_of_outputs(tally.probabilities, ~tally.finite & ~tally.fooled)
    return tally.verdict(stood)


def _cascade_verdict(cascade, target, problem, batch_size, where, progress):
    """Hand the images still standing from one attack of a cascade to the next."""
    options = (batch_size, where, progress)
    parts = cascade.parts_of(target, problem)
    if attribute(target, "random") or attribute(target, "couples_images"):
        return _worst_of_parts(cascade, target, parts, problem, *options)
    tally = _Tally(problem.images.shape[0])
    clean = _judged(cascade, target, problem, problem.images, batch_size, where)
    tally.fooled, tally.finite = clean.fooled > 0, (clean.fooled > 0) | (clean.stood > 0)
    tally.forwards += 1  # the pass that judges the clean image
    tallies = {"clean": int(tally.fooled.sum())}
    for part in parts:
        rows = np.flatnonzero(~tally.fooled)
        if len(rows):
            left = part.problem(take(problem, rows))
            if part.target is target:
                found: Any = _verdict(part.attack, target, left, *options)
                tally.fooled[rows] = found.fooled
            else:
                found = _run(part.attack, part.target, left, *options)
                shown = _judged(cascade, target, left, found.images, batch_size, where)
                tally.fooled[rows] = shown.fooled > 0
                tally.finite[rows] &= (shown.fooled > 0) | (shown.stood > 0)
                tally.forwards[rows] += 1
            tally.finite[rows] &= found.status != NOT_FINITE
            tally.steep[rows] |= found.status != UNRELIABLE
            tally.forwards[rows] += found.forwards
            tally.backwards[rows] += found.backwards
        tallies[part.name] = int(tally.fooled.sum()) - sum(tallies.values())
    return tally.verdict(tallies=tallies)


def _judged(cascade, target, problem, images, batch_size, where):
    """Say how the target itself fares on images."""
    stand = _Stand(len(images))
    for rows, part in in_batches(problem._replace(images=images), batch_size * where.count):
        stand.note(rows, judged(cascade, target, part, part.images, where=where))
    return stand


def _worst_of_parts(cascade, target, parts, problem, batch_size, where, progress):
    """Spend the full budget of all parts, choose the worst image on some draws and judge it on others."""
    count, size = problem.images.shape[0], batch_size * where.count
    results = [_run(part.attack, part.target, part.problem(problem), batch_size, where, progress) for part in parts]
    candidates = np.stack([np.asarray(problem.images), *(result.images for result in results)])
    chosen, attacked = np.zeros(count, int), _Stand(count)
    for rows, part in in_batches(problem, size):
        images = [take(images[rows], np.resize(np.arange(len(rows)), size)) for images in candidates]
        found = worst(cascade, target, part, images, where=where)
        chosen[rows] = found.chosen[: len(rows)]
        attacked.note(rows, found)
    tally, clean = _Tally(count), _judged(cascade, target, problem, problem.images, batch_size, where)
    names = ["clean", *(part.name for part in parts)]
    for result in results:
        tally.forwards += result.forwards
        tally.backwards += result.backwards
        tally.finite &= result.status != NOT_FINITE
        tally.steep |= result.status != UNRELIABLE
        tally.probabilities &= result.probabilities
    verdict = _capped(tally, clean, attacked, random=attribute(target, "random"))
    tallies = {name: int((verdict.fooled & (chosen == number)).sum()) for number, name in enumerate(names)}
    return verdict._replace(tallies=tallies)
