"""Numbers that do not depend on the precision or the scale of a model's outputs: wide outputs, powers of two, pulls.

Attacks use the direction of a gradient, whose size may be anything: that of a confident network is 1e-20 of its
logits', and that of a float16 network is zero below 6e-8 and infinite above 65,504. What is divided by here is a power
of two, so that nothing is rounded, or known to be above zero. A guard such as ``maximum(size, tiny)`` is no help: XLA
turns ``a / b / c`` into ``a / (b * c)``, and the product of two such guards is zero.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Powers of two are kept within these exponents: the product of two is then finite in float32, and not zero.
_EXPONENT = 63
# A gradient through float16 is taken as it comes if its largest value lies between these; else it is pulled again at
# another scale, at first by 2**20, a few times.
_WEAK, _STRONG = 2.0**-8, 2.0**14
_STRIDE, _TRIES = 20, 6


def widened(tree: Any, *, decisions: bool = True) -> Any:
    """Return outputs as numbers that can be computed with: float32 at least.

    Args:
        tree: arrays of any dtype.
        decisions: whether integers and truth values become float32 too.

    Returns:
        The same tree, float32 or float64.
    """

    def widen(leaf):
        if not decisions and not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        wide = jnp.issubdtype(leaf.dtype, jnp.floating) and jnp.finfo(leaf.dtype).bits >= 32
        return leaf if wide else leaf.astype(jnp.float32)

    return jax.tree.map(widen, tree)


def power_of_two(sizes: Any) -> Any:
    """Return the largest power of two up to each number, from 2**-63 to 2**63; 1 for zero and what is not finite.

    Args:
        sizes: float32 or float64, at least 0.

    Returns:
        The same shape and dtype. Dividing by it rounds nothing.
    """
    # The bits of the exponent alone: frexp and ldexp take twenty times the operations to compile.
    bits = jnp.uint64 if sizes.dtype == jnp.float64 else jnp.uint32
    exponents = jax.lax.bitcast_convert_type(jnp.full_like(sizes, jnp.inf), bits)
    powers = jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(sizes, bits) & exponents, sizes.dtype)
    usable = jnp.isfinite(sizes) & (sizes > 0)
    return jnp.where(usable, jnp.clip(powers, 2.0**-_EXPONENT, 2.0**_EXPONENT), jnp.ones_like(sizes))


def unit_scaled(values: Any, *, axis: Any = None) -> Any:
    """Return values times a power of two, so that the largest magnitude is from 1 to 2; zeros stay zeros.

    Args:
        values: float32 or float64, of any shape.
        axis: over which the largest is taken; all by default.

    Returns:
        The same shape, finite where the values are, and with squares that neither vanish nor overflow.
    """
    for _ in range(2):  # what is beyond the powers of two at hand takes two steps
        values = values * (1 / power_of_two(jnp.abs(values).max(axis=axis, keepdims=True)))
    return values


def divided(values: Any, size: Any) -> Any:
    """Return ``values / size``, and zero where the size is zero.

    Args:
        values: any shape.
        size: at least 0, of a shape that broadcasts to that of the values.

    Returns:
        The quotient.
    """
    usable = size > 0
    quotient = values / jnp.where(usable, size, jnp.ones_like(size))
    return jnp.where(usable, quotient, jnp.zeros_like(quotient))


def pulled(pull: Callable[[Any], Any], sizes: Any, *, half: str | None = None) -> Any:
    """Pull losses' gradients back to images at a scale at which nothing on the way vanishes or overflows.

    Args:
        pull: weights of losses, to the gradient of the sum of the weighted losses; losses of other images do not mix.
        sizes: of the gradient of each loss to the outputs, where the way back begins; float32 or float64.
        half: ``"loop"`` where some value on the way is a float16: then the pull is repeated, in a loop on the device,
            at other scales where what comes back is zero, very small or not finite. ``"unrolled"``: without a loop.

    Returns:
        The gradient of the unweighted losses, shape ``(*sizes.shape, height, width, channel)``. Where its largest value
        would be below 2**-90 or above 2**90, it is that, in the same direction.
    """
    scale = 1 / power_of_two(sizes)
    gradient = pull(scale)
    if half is not None:
        scale, gradient = _repulled(pull, scale, gradient, unrolled=half == "unrolled")
    unit = power_of_two(_largest(gradient))
    factor = jnp.clip(unit * (1 / scale), 2.0**-90, 2.0**90) * (1 / unit)
    return gradient * factor[..., None, None, None]


def _largest(gradient):
    return jnp.abs(gradient).max(axis=(-3, -2, -1))


def _repulled(pull, scale, gradient, *, unrolled):
    """Pull again, image by image, until what comes back fits float16 well, or a few times; keep what is finite."""

    def unfit(gradient):
        met = _largest(gradient)
        return (met < _WEAK).astype(jnp.int32) - (~(met <= _STRONG)).astype(jnp.int32)  # NaN: -1

    def again(state):
        number, tried, way, stride, last, kept = state
        stride = jnp.where(way * last < 0, stride // 2, stride)
        tried = jnp.clip(tried * jnp.ldexp(jnp.ones_like(tried), way * stride), 2.0**-120, 2.0**120)
        found = pull(tried)
        scale, gradient = kept
        # A gradient that is zero at every scale is one: where none is, pulling harder overflows in the end.
        better = (way != 0) & jnp.isfinite(_largest(found)) & (_largest(found) > 0)
        better |= (way != 0) & jnp.isfinite(_largest(found)) & ~jnp.isfinite(_largest(gradient))
        kept = jnp.where(better, tried, scale), jnp.where(better[..., None, None, None], found, gradient)
        return number + 1, tried, jnp.where(way == 0, 0, unfit(found)), stride, jnp.where(way == 0, last, way), kept

    def unfinished(state):
        return (state[0] < _TRIES) & jnp.any(state[2] != 0)

    zero = jnp.zeros(scale.shape, jnp.int32)
    state = (jnp.int32(0), scale, unfit(gradient), zero + _STRIDE, zero, (scale, gradient))
    if unrolled:
        for _ in range(_TRIES):
            state = jax.lax.cond(unfinished(state), again, lambda state: state, state)
    else:
        state = jax.lax.while_loop(unfinished, again, state)
    return state[-1]
