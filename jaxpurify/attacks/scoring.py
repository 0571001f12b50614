"""Judging images on draws that no search has seen, which for a deterministic target is one evaluation."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpurify import keys as _keys
from jaxpurify.attacks import losses
from jaxpurify.attacks.attack import Attack
from jaxpurify.attacks.result import Problem
from jaxpurify.models import attribute
from jaxpurify.parallel import Placement

DRAWS = 20


class Draws(NamedTuple):
    """What a target says of images, booleans of shape ``(draws, batch)``; one row where it is not random.

    Attributes:
        fooled: whether the attack has succeeded.
        stood: whether it has not, and the outputs say something: NaN neither falls nor stands.
    """

    fooled: np.ndarray
    stood: np.ndarray


def judged(
    attack: Attack,
    target: Any,
    problem: Problem,
    images: Any,
    *,
    where: Placement,
    purpose: str = "score",
    draws: int = DRAWS,
) -> Draws:
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
        Which draws are fooled, and which stand.
    """
    judge = where.compile(_judge, per_image=(False, False, True, True, True))
    target, success = where.everywhere(target), attack.judgement()
    placed, images = where.put(problem), where.put(images)
    keys: list[Any] = [None]
    if attribute(target, "random"):
        keys = [where.put(_keys.stream(problem.keys, purpose, draw=draw)) for draw in range(draws)]
    rows = [judge(success, target, placed, images, own) for own in keys]
    return Draws(*(np.stack([np.asarray(row[part]) for row in rows]) for part in range(2)))


def _judge(success, target, problem, images, keys):
    outputs = target(images, keys)
    sound = losses.proper(outputs)
    fooled = losses.succeeded(success.function, outputs, problem.labels, problem.targets)
    return fooled & sound, ~fooled & sound


class Worst(NamedTuple):
    """What is left of images under the worst of several attacks.

    Attributes:
        chosen: which candidate was the worst, shape ``(batch,)``.
        fooled: share of the scored draws that are fooled, shape ``(batch,)``.
        stood: share of them that stand, shape ``(batch,)``.
    """

    chosen: np.ndarray
    fooled: np.ndarray
    stood: np.ndarray


def worst(attack: Attack, target: Any, problem: Problem, candidates: Sequence[Any], *, where: Placement) -> Worst:
    """Choose the worst of several images for each image, and score it on other draws than those it was chosen on.

    Args:
        attack: decides what success is.
        target: the target.
        problem: labels, targets and keys.
        candidates: arrays of shape ``(batch, height, width, channel)``; of equals the first is chosen.
        where: the devices.

    Returns:
        Which was chosen, and how it fares on the scored draws.
    """
    found = [judged(attack, target, problem, images, where=where, purpose="select") for images in candidates]
    means = np.stack([draws.stood.mean(axis=0) for draws in found])
    chosen = means.argmin(axis=0)
    if not attribute(target, "random"):
        fooled = np.stack([draws.fooled[0] for draws in found]).any(axis=0)
        return Worst(chosen, fooled.astype(float), means.min(axis=0))
    images = np.stack([np.asarray(images) for images in candidates])[chosen, np.arange(len(chosen))]
    scored = judged(attack, target, problem, images, where=where)
    return Worst(chosen, scored.fooled.mean(axis=0), scored.stood.mean(axis=0))
