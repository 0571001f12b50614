"""What is found out about models on a few clean images before any attack begins."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import images as _images
from jaxpurify import keys as _keys
from jaxpurify.attacks.agreement import measure
from jaxpurify.models import attribute
from jaxpurify.probing import eight, eight_keys, forward


def gradient_agreement(target: Any, images: Any, key: Any) -> dict[str, Any]:
    """Measure how well a target's exact gradient says how the target changes.

    Args:
        target: images to logits.
        images: a few clean images.
        key: one typed key.

    Returns:
        What ``jaxpurify.attacks.agreement`` found, as JSON can hold it; ``sentence`` is None where the gradient is
        reliable. A target that returns integers or truth values is blind.
    """
    measured = measure(target, images, key)
    if measured is None:
        blank = {"rho": [None, None], "zero": None, "cosine": None, "images": 0, "reliable": False}
        sentence = "how well its gradients agree with what it does could not be measured"
        return blank | {"blind": decides(target, images, key), "sentence": sentence}
    return {
        "rho": [_number(value) for value in measured.rho],
        "zero": _number(measured.zero),
        "cosine": _number(measured.cosine),
        "images": int(measured.images),
        "reliable": bool(measured.reliable),
        "blind": bool(measured.blind),
        "sentence": None if measured.reliable else measured.sentence,
    }


def decides(target: Any, images: Any, key: Any) -> bool:
    """Say whether a target returns integers or truth values, which have no gradient.

    Args:
        target: images to outputs.
        images: a few images.
        key: one typed key.

    Returns:
        Whether none of its outputs is of floating point.
    """
    keys = _keys.per_image(key, len(images)) if attribute(target, "random") else None
    outputs = jax.tree.leaves(jax.eval_shape(lambda t, x: t(x, keys), target, images))
    return not any(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in outputs)


def leaves_range(purifier: Any, images: Any, key: Any) -> bool:
    """Say whether a purifier returns values outside [0, 1], which no classifier here was trained on.

    Args:
        purifier: images to images.
        images: a few images.
        key: one typed key.

    Returns:
        Whether it does.
    """
    purified = np.asarray(forward(purifier, eight(images), eight_keys(purifier, images, key)))
    return bool(purified.min() < -_images.TOLERANCE or purified.max() > 1 + _images.TOLERANCE)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(f"{float(value):.4g}")
