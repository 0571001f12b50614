"""Adversarial images in 8 bits that stay in the ball: what is written to image files and scored as written."""

from typing import Any

import numpy as np

# What a reader of an image file gets, exactly.
LEVELS = (np.arange(256, dtype=np.float32) / np.float32(255)).astype(np.float64)
SLACK = 5e-7  # of a norm, in units of [0, 1]: images are float32, and half of what the check of perturbations allows
MARGIN = 1e-5  # share of epsilon left free in l2 and l1, so that a reader who divides in float64 is inside too
POWERS = {"linf": 0, "l2": 2, "l1": 1}


def quantised(images: Any, clean: Any, *, norm: str, epsilon: Any) -> np.ndarray:
    """Round adversarial images to 8 bits without leaving the ball around the clean ones.

    In the linf norm each value becomes the nearest level in its ball. In l2 and l1, values are rounded to the nearest
    level; where that leaves the ball, those for which it costs least move a level towards the clean value, until the
    image is inside. Clean images need not be multiples of 1/255.

    Args:
        images: adversarial images, shape ``(images, height, width, channel)``, in [0, 1].
        clean: the clean ones, same shape.
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.
        epsilon: size of the ball in units of [0, 1], one for all or one per image; None for no ball, where values are
            rounded to the nearest level.

    Returns:
        ``uint8``, same shape: divided by 255, they are in the ball, by the check of ``metrics.norms``.

    Raises:
        ValueError: if shapes differ, the norm is unknown, or no image of 8 bits lies in the ball.

    Source: our choice.
    """
    images, clean = np.asarray(images), np.asarray(clean)
    if images.shape != clean.shape:
        raise ValueError(f"images must have the shape of the clean ones, {clean.shape}, got {images.shape}")
    if norm not in POWERS:
        raise ValueError(f"norm must be one of {sorted(POWERS)}, got {norm!r}")
    levels = np.rint(np.clip(images, 0, 1).astype(np.float64) * 255).astype(np.uint8)
    if epsilon is None:
        return levels
    inside = _in_box if norm == "linf" else _in_ball
    for number, size in enumerate(np.broadcast_to(np.asarray(epsilon, np.float64), len(images))):
        image, around = images[number].astype(np.float64), clean[number].astype(np.float64)
        found = inside(levels[number].astype(np.int64), image, around, float(size), POWERS[norm])
        if found is None:
            offset = np.abs(LEVELS[np.rint(around * 255).astype(np.int64)] - around)
            nearest = {"linf": offset.max(), "l2": np.sqrt((offset**2).sum()), "l1": offset.sum()}[norm]
            raise ValueError(
                f"epsilon must be at least {nearest:.3g} in {norm} for an image of 8 bits to lie around clean image "
                f"{number}, whose values are not multiples of 1/255, got {size:.3g}: keep floats, as a .npz file does"
            )
        levels[number] = found
    return levels


def _in_box(levels, image, clean, epsilon, power):
    """Return the nearest level of each value within epsilon, or None where there is none."""
    low = np.searchsorted(LEVELS, clean - epsilon - SLACK, side="left")
    high = np.searchsorted(LEVELS, clean + epsilon + SLACK, side="right") - 1
    return None if (low > high).any() else np.clip(levels, low, high)


def _in_ball(levels, image, clean, epsilon, power):
    """Move levels towards the clean values, those first that change the image least for what they bring."""
    while True:
        sizes = np.abs(LEVELS[levels] - clean) ** power
        excess = sizes.sum() - (epsilon * (1 - MARGIN)) ** power
        if excess <= 0:
            return levels
        nearer = np.clip(levels + np.sign(clean - LEVELS[levels]).astype(np.int64), 0, 255)
        gain = sizes - np.abs(LEVELS[nearer] - clean) ** power
        usable = np.flatnonzero(gain > 0)
        if not usable.size:
            return levels if sizes.sum() <= (epsilon + SLACK) ** power else None
        cost = (LEVELS[nearer] - image) ** 2 - (LEVELS[levels] - image) ** 2
        order = usable[np.argsort(cost.flat[usable] / gain.flat[usable], kind="stable")]
        enough = np.searchsorted(np.cumsum(gain.flat[order]), excess) + 1
        levels.flat[order[:enough]] = nearer.flat[order[:enough]]
