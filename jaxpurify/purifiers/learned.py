"""Networks as stages of a purifier: what is taken for one, and what it must return."""

import functools
import warnings
from typing import Any

import jax
from jaxtyping import Array, Float

from jaxpurify.images import saturate
from jaxpurify.models import as_purifier, attribute


def as_network(model: Any) -> Any:
    """Return whatever restores images as a pytree callable, whose numbers are leaves.

    Args:
        model: what ``networks.load_network`` returns, a purifier, a Flax NNX module (a copy of it is set to evaluation
            mode), any callable pytree, or a plain function ``images -> images``.

    Returns:
        A pytree ``images -> images``.

    Raises:
        TypeError: if it cannot be called, is a class, or is random.
    """
    if isinstance(model, type) or not callable(model):
        got = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"network must be a callable images -> images, got {got}: networks.load_network gives one")
    network = as_purifier(model)
    if attribute(network, "random"):
        raise TypeError(f"network must give the same images every time, got {type(model).__name__}, which needs a key")
    return network


def network_reach(network: Any) -> int | None:
    """Return how many pixels away a network looks.

    Args:
        network: what ``as_network`` returns.

    Returns:
        The half of its receptive field, or the reach of a purifier; None where it says neither.
    """
    field = getattr(getattr(network, "apply", None), "receptive_field", None)
    return getattr(network, "reach", None) if field is None else field // 2


def warn_of_small(network: Any, images: Any) -> None:
    """Warn where images are smaller than what a network looks at for one pixel, once for each size.

    Args:
        network: what ``as_network`` returns.
        images: shape ``(batch, height, width, channel)``.
    """
    height, width = images.shape[1:3]
    field = getattr(getattr(network, "apply", None), "receptive_field", None)
    if field is not None and min(height, width) < field:
        warnings.warn(
            f"the images ({height}×{width} pixels) are smaller than the receptive field of {network.name} "
            f"({field}×{field}): it was trained to see more than there is",
            stacklevel=2,
        )


@functools.partial(jax.jit, static_argnames=("scale",))
def restore(
    network: Any, images: Float[Array, "batch height width channel"], *, scale: int = 1
) -> Float[Array, "batch new_height new_width channel"]:
    """Put images through a network and saturate.

    Args:
        network: what ``as_network`` returns.
        images: shape ``(batch, height, width, channel)``.
        scale: new side over old that the network must have.

    Returns:
        Shape ``(batch, scale * height, scale * width, channel)`` in [0, 1].

    Raises:
        ValueError: if the network returns another shape.
    """
    restored = network(images)
    batch, height, width, channels = images.shape
    expected = (batch, scale * height, scale * width, channels)
    if restored.shape != expected:
        name = getattr(network, "name", type(network).__name__)
        remedy = "the one that it was trained for" if restored.shape[3:] == (channels,) else "images of its channels"
        raise ValueError(
            f"{name} turned images of shape {images.shape} into {restored.shape}, expected {expected} at scale "
            f"{scale}: give {remedy}"
        )
    return saturate(restored)
