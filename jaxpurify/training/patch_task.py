"""What tasks have in common that learn from patches of photographs."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxpurify.metrics.quality import psnr
from jaxpurify.training.pictures import patches, pictures, pyramid
from jaxpurify.training.task import Batch, Task

CEILING = 100.0  # dB


class PatchTask(Task):
    """A task whose examples are photographs and whose batches are one patch of each.

    Attributes:
        patch: rows and columns of a patch.
        reductions: whole factors by which the photographs are shrunk; each makes further pictures.
    """

    patch: int
    reductions: tuple[int, ...]

    def prepare(self, data: Any, *, split: str = "train") -> Sequence[np.ndarray]:
        """Read the photographs and their reductions."""
        return pyramid(pictures(data, split=split), self.reductions, least=self.patch)

    def batch(self, source: Sequence[np.ndarray], rows: np.ndarray, random: np.random.Generator) -> Batch:
        """Cut patches."""
        return {"images": np.stack([patches(((source[row], 1),), random, patch=self.patch)[0] for row in rows])}


def precision_of(network: Any) -> Any:
    """Return the dtype of a network's weights, in which it is to compute.

    Args:
        network: the network.

    Returns:
        A floating-point dtype.
    """
    return jax.tree.leaves(nnx.state(network, nnx.Param))[0].dtype


def as_float(pixels: Array, network: Any) -> Array:
    """Turn 8-bit pixels into [0, 1], in the precision of a network's weights.

    Args:
        pixels: ``uint8``.
        network: the network.

    Returns:
        Floats in [0, 1].
    """
    return (pixels.astype(jnp.float32) / 255).astype(precision_of(network))


def measured_psnr(images: Array, reference: Array) -> Array:
    """Compute PSNR as a measure to be averaged: where images are equal, as flat patches may be, it is 100 dB.

    Args:
        images: ``(batch, height, width, channel)``.
        reference: same shape.

    Returns:
        dB, ``(batch,)``.
    """
    return jnp.minimum(psnr(images, reference), CEILING)
