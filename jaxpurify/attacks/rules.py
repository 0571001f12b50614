"""Update rules of gradient attacks, as Optax transformations of one image's negative gradient."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxpurify.attacks.norms import ball
from jaxpurify.precision import divided, unit_scaled


def steepest(norm: str, *, l1_share: Any = 0.01) -> optax.GradientTransformation:
    """Step by 1 in the direction of steepest descent of a norm (fed negative gradients, it ascends).

    Args:
        norm: ``"linf"`` (the sign), ``"l2"`` (the normalised gradient) or ``"l1"`` (the sign of the largest entries).
        l1_share: in the l1 norm the share of entries that count as the largest, at least one.

    Returns:
        The rule. In the l1 norm it needs the image: values at the edge of [0, 1] that would leave it do not count.

    Source: for the l1 norm the step of SLIDE, Tramèr and Boneh 2019 (arXiv 1904.13000, section 3): the steepest step,
    all in one entry, is weak.
    """
    if norm == "l1":
        return optax.stateless(lambda updates, image: _sparse_sign(-updates, image, l1_share))
    return optax.stateless(lambda updates, _: -ball(norm).direction(updates))


def _sparse_sign(gradient: Any, image: Any, share: Any) -> Any:
    stuck = ((image <= 0) & (gradient < 0)) | ((image >= 1) & (gradient > 0))
    sizes = jnp.where(stuck, jnp.zeros_like(gradient), jnp.abs(gradient))
    count = jnp.maximum(jnp.ceil(jnp.asarray(share, sizes.dtype) * sizes.size), 1).astype(jnp.int32)
    largest = jnp.where((sizes >= kth_largest(sizes, count)) & (sizes > 0), jnp.sign(gradient), 0)
    return largest / jnp.maximum(jnp.abs(largest).sum(), 1)


def kth_largest(sizes: Any, count: Any) -> Any:
    """Return one order statistic of non-negative numbers without sorting them, which is slow.

    Args:
        sizes: float32 or float64, of any shape.
        count: 1 for the largest, and so on; traced or not.

    Returns:
        The value, exactly, found bit by bit: non-negative numbers order as their bits do.
    """
    unsigned, width = (jnp.uint32, 32) if sizes.dtype == jnp.float32 else (jnp.uint64, 64)
    bits = jax.lax.bitcast_convert_type(sizes, unsigned)

    def add_bit(number, found):
        higher = found | (jnp.ones((), unsigned) << (width - 2 - number).astype(unsigned))
        return jnp.where((bits >= higher).sum() >= count, higher, found)

    found = jax.lax.fori_loop(0, width - 1, add_bit, jnp.zeros((), unsigned))
    return jax.lax.bitcast_convert_type(found, sizes.dtype)


def mean_absolute_one() -> optax.GradientTransformation:
    """Divide by the mean absolute value, so that no gradient is too small for what follows.

    Returns:
        The rule.
    """

    def normalise(updates, _):
        scaled = unit_scaled(updates)
        return divided(scaled, jnp.abs(scaled).mean())

    return optax.stateless(normalise)


def accumulate(decay: Any) -> optax.GradientTransformation:
    """Accumulate like ``optax.trace``, in the gradient's own dtype whatever the decay's.

    Args:
        decay: share of the sum that is kept at each step, traced or not.

    Returns:
        The rule, whose state is the sum.
    """

    def update(updates, state, params=None):
        del params
        total = updates + jnp.asarray(decay, updates.dtype) * state
        return total, total

    return optax.GradientTransformation(jnp.zeros_like, update)


def per_pixel(norm: str) -> optax.GradientTransformation:
    """Divide by the norm of ones, so that entries near 1 make a step of length near 1.

    Args:
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.

    Returns:
        The rule.
    """

    def divide(updates, _):
        return updates / {"linf": 1, "l2": math.sqrt(updates.size), "l1": updates.size}[norm]

    return optax.stateless(divide)


class Factory(NamedTuple):
    """A partial application that equals another of the same parts, so that it does not compile anew.

    Attributes:
        function: the Optax factory.
        arguments: its arguments after the learning rate.
        keywords: its keyword arguments, as pairs.
    """

    function: Callable
    arguments: tuple
    keywords: tuple

    def __call__(self, learning_rate):
        return self.function(learning_rate, *self.arguments, **dict(self.keywords))
