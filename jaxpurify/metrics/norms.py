"""Sizes of perturbations, in float64 on the host: by other code than the attacks'."""

from typing import Any

import numpy as np


def perturbation_norms(clean: Any, adversarial: Any, *, norm: str) -> np.ndarray:
    """Return the norm of each image's perturbation.

    Args:
        clean: shape ``(images, height, width, channel)``.
        adversarial: same shape.
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.

    Returns:
        float64 of shape ``(images,)``, in the units of the images.

    Raises:
        ValueError: if shapes differ or the norm is unknown.
    """
    orders = {"linf": np.inf, "l2": 2, "l1": 1}
    if norm not in orders:
        raise ValueError(f"norm must be one of {sorted(orders)}, got {norm!r}")
    first, second = np.asarray(clean), np.asarray(adversarial)
    if first.shape != second.shape:
        raise ValueError(f"adversarial images must have the shape of the clean ones, {first.shape}, got {second.shape}")
    norms = np.empty(len(first))
    for image in range(len(first)):  # one by one: in float64 all of them would be several times what came
        difference = second[image].astype(np.float64) - first[image].astype(np.float64)
        norms[image] = np.linalg.norm(difference.reshape(1, -1), ord=orders[norm], axis=1)[0]
    return norms


def check_perturbations(clean: Any, adversarial: Any, *, norm: str, epsilon: Any) -> np.ndarray:
    """Check that adversarial images are finite, in [0, 1] and in the ball, with a tolerance of 1e-6.

    Args:
        clean: shape ``(images, height, width, channel)``.
        adversarial: same shape.
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.
        epsilon: size of the ball, in the units of the images, or one for each image, or None for any size.

    Returns:
        The norms, float64 of shape ``(images,)``.

    Raises:
        ValueError: naming the first image that fails.
    """
    values = np.asarray(adversarial).reshape(len(adversarial), -1)
    norms = perturbation_norms(clean, adversarial, norm=norm)
    wrong = ~((values.min(axis=1) >= -1e-6) & (values.max(axis=1) <= 1 + 1e-6))  # NaN is neither
    if wrong.any():
        raise ValueError(
            f"adversarial image {np.flatnonzero(wrong)[0]} leaves [0, 1] or is not finite: the attack is at fault"
        )
    # A relative part too: an l2 norm summed in float32 by the attack is off by a few parts in a million.
    allowed = np.broadcast_to(np.asarray(np.inf if epsilon is None else epsilon, np.float64), norms.shape)
    far = norms > allowed * (1 + 1e-6) + 1e-6
    if far.any():
        image = np.flatnonzero(far)[0]
        raise ValueError(
            f"adversarial image {image} is {norms[image]:.8f} away in {norm}, expected at most {allowed[image]:.8f}: "
            "the attack is at fault"
        )
    return norms
