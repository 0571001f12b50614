"""Judging images on draws that no search has seen, which for a deterministic target is one evaluation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxpurify import keys as _keys
from jaxpurify.attacks import losses
from jaxpurify.attacks.attack import Attack
from jaxpurify.attacks.result import Problem
from jaxpurify.models import attribute
from jaxpurify.parallel import Placement

DRAWS = 20


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


def worst(
    attack: Attack, target: Any, problem: Problem, candidates: Sequence[Any], *, where: Placement
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the worst of several images for each image, and score it on other draws than those it was chosen on.

    Args:
        attack: decides what success is.
        target: the target.
        problem: labels, targets and keys.
        candidates: arrays of shape ``(batch, height, width, channel)``; of equals the first is chosen.
        where: the devices.

    Returns:
        Which candidate was chosen, shape ``(batch,)``, and in what share of fresh draws it stands, shape ``(batch,)``.
    """
    stood = [1 - fooling_draws(attack, target, problem, images, where=where, purpose="select") for images in candidates]
    means = np.stack([draws.mean(axis=0) for draws in stood])
    chosen = means.argmin(axis=0)
    if not attribute(target, "random"):
        return chosen, means.min(axis=0)
    images = np.stack([np.asarray(images) for images in candidates])[chosen, np.arange(len(chosen))]
    return chosen, 1 - fooling_draws(attack, target, problem, images, where=where).mean(axis=0)
