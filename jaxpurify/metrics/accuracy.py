"""Accuracies and their one set of definitions.

*Robust accuracy*: share of all images that the defended model gets right under attack; one that it gets wrong clean is
not robust. *Attack success rate*: of the images that the attacked model gets right clean, the share that it gets wrong
attacked. *Destruction rate*: of the images that the bare classifier gets right clean and wrong attacked, the share that
the defended model gets right.
"""

from typing import Any, NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A fraction with its 95 % interval.

    Attributes:
        fraction: the estimate, in [0, 1]; NaN where there is no image.
        low: lower end.
        high: upper end.
    """

    fraction: float
    low: float
    high: float


def wilson(fraction: float, count: int, *, z: float = 1.959963984540054) -> Interval:
    """Return Wilson's score interval of a share of images.

    Args:
        fraction: the share, in [0, 1]; for random models the mean of per-image shares.
        count: number of images, which is what was sampled, whatever the number of draws.
        z: normal quantile; 95 % by default.

    Returns:
        The fraction with the ends of its interval, all NaN where ``count`` is 0.

    Source: Wilson 1927; with a mean of shares in the place of a proportion it is conservative.
    """
    if count == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    centre = (fraction + z * z / (2 * count)) / (1 + z * z / count)
    spread = z / (1 + z * z / count) * np.sqrt(fraction * (1 - fraction) / count + z * z / (4 * count * count))
    # Rounding must not put an end beside 0 or 1, where the formula is exactly there.
    low, high = 0.0 if fraction == 0 else centre - spread, 1.0 if fraction == 1 else centre + spread
    return Interval(float(fraction), float(max(0.0, low)), float(min(1.0, high)))


def robust_accuracy(clean: Any, attacked: Any, *, random: bool = False) -> np.ndarray:
    """Return each image's robust accuracy: right attacked, and no more often than clean.

    Args:
        clean: whether (or how often) the defended model gets each image right clean, shape ``(images,)``.
        attacked: the same under attack.
        random: whether these are shares of a random model's draws. Of two such shares the lower one, image by image,
            is lower than either is in truth; therefore the shares under attack are returned, or the clean ones where
            their mean is lower.

    Returns:
        float64 of shape ``(images,)``; the mean is the robust accuracy.
    """
    clean, attacked = np.asarray(clean, float), np.asarray(attacked, float)
    if random:
        return clean if attacked.mean() > clean.mean() else attacked
    return np.minimum(clean, attacked)


def attack_success_rate(clean: Any, attacked: Any) -> float:
    """Return the attack success rate of the attacked model.

    Args:
        clean: booleans, right clean, shape ``(images,)``.
        attacked: booleans, right attacked.

    Returns:
        The share, NaN if no image is right clean.
    """
    right = np.asarray(clean, bool)
    return float(1 - np.asarray(attacked, float)[right].mean()) if right.any() else float("nan")


def destruction_rate(clean: Any, attacked: Any, defended: Any) -> float:
    """Return the destruction rate of a defence.

    Args:
        clean: booleans, the bare classifier right clean, shape ``(images,)``.
        attacked: booleans, the bare classifier right attacked.
        defended: whether, or how often, the defended model is right on the same attacked images.

    Returns:
        The share, NaN if no attack on the bare classifier succeeded.

    Source: Kurakin, Goodfellow and Bengio 2017 (arXiv 1607.02533), section 4.1.
    """
    undone = np.asarray(clean, bool) & ~np.asarray(attacked, bool)
    return float(np.asarray(defended, float)[undone].mean()) if undone.any() else float("nan")
