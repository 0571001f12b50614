"""Decision boundaries made linear: their normals, and the shortest steps to them that stay within [0, 1]."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from jaxpurify.attacks.losses import finite_logits
from jaxpurify.attacks.result import choose as keep_where
from jaxpurify.attacks.tracing import traced
from jaxpurify.precision import power_of_two, pulled, widened

# Four or five are usual.
NEWTON_STEPS = 32
ROOM = 2**28  # bytes of normals at a time: a thousand classes of large images are many gigabytes


class Boundary(NamedTuple):
    """Each image's nearest linearised boundary between its own class and another, were there no box.

    Attributes:
        outputs: the logits, shape ``(batch, classes)``, in float32 at least.
        gap: own logit less the other, shape ``(batch,)``: positive on the own side; no nearer to zero than logits are
            rounded (no step would follow, and none ever after).
        normal: gradient of the other logit less the own, shape ``(batch, height, width, channel)``; like the gap, times
            one power of two, which brings its largest value near 1.
        finite: whether gaps and normals of all boundaries are, shape ``(batch,)``; elsewhere both are zero.
        steep: whether any normal of an image is not zero, shape ``(batch,)``.
        backwards: boundaries looked at, a number.
    """

    outputs: Float[Array, "batch classes"]
    gap: Float[Array, " batch"]
    normal: Float[Array, "batch height width channel"]
    finite: Any
    steep: Any
    backwards: int


def likeliest_others(
    outputs: Shaped[Array, "batch classes"], own: Int[Array, " batch"], *, count: int
) -> Int[Array, "batch count"]:
    """Return the classes of the largest logits without an image's own, the likeliest first.

    Args:
        outputs: logits, shape ``(batch, classes)``.
        own: the class left out, shape ``(batch,)``.
        count: how many, at most ``classes - 1``.

    Returns:
        Classes, shape ``(batch, count)``.
    """
    left_out = jax.nn.one_hot(own, outputs.shape[-1], dtype=bool)
    # Logits that are not finite must not let the own class in.
    ranked = finite_logits(outputs)
    ranked = jnp.where(jnp.isfinite(ranked), ranked, jnp.finfo(ranked.dtype).min)
    ranked = jnp.where(left_out, jnp.full_like(ranked, -jnp.inf), ranked)
    return jax.lax.top_k(ranked, count)[1].astype(own.dtype)


def nearest_boundary(target: Any, images: Any, choose: Callable[[Any], tuple[Any, Any]], *, norm: str) -> Boundary:
    """Linearise the target's decision boundaries at images: one forward pass, and one backward pass a boundary.

    The backward passes are vectorised, as many at a time as fit the memory well, and differences of logits are
    differentiated, so that the own class costs none.

    Args:
        target: a deterministic target with logits.
        images: shape ``(batch, height, width, channel)``.
        choose: logits to the own classes, shape ``(batch,)``, and the others, shape ``(batch, k)``.
        norm: ``"linf"`` or ``"l2"``: in which the nearest is looked for.

    Returns:
        The nearest boundary of each image.
    """
    about = traced(target, images)
    outputs, pull = jax.vjp(lambda moved: widened(target(moved, None)), images)
    own, others = choose(outputs)
    classes, dtype = outputs.shape[1], outputs.dtype
    finite = finite_logits(outputs)
    own_logit = jnp.take_along_axis(finite, own[:, None], axis=1)
    # What a model computes in half precision is rounded to whole steps, whatever dtype it returns.
    step = max(8 * float(jnp.finfo(images.dtype).eps), about.rounding)
    size = jnp.where(outputs > -jnp.inf, jnp.abs(finite), 0).max(axis=1).astype(images.dtype)

    def nearest_of(others):
        """Return distance, gap, normal, usability and steepness among some boundaries of each image."""
        differences = jax.nn.one_hot(others.T, classes, dtype=dtype) - jax.nn.one_hot(own, classes, dtype=dtype)[None]

        def pull_all(scale):
            return jax.vmap(pull)(differences * scale[..., None].astype(dtype))[0]

        normals = pulled(pull_all, jnp.ones(others.T.shape, images.dtype), half=about.half)
        gaps = (own_logit - jnp.take_along_axis(finite, others, axis=1)).T.astype(images.dtype)
        usable = jnp.isfinite(gaps).all(axis=0) & jnp.isfinite(normals).all(axis=(0, 2, 3, 4))
        gaps = jnp.where(usable[None], gaps, jnp.zeros_like(gaps))
        normals = jnp.where(usable[None, :, None, None, None], normals, jnp.zeros_like(normals))
        steep = (normals != 0).any(axis=(0, 2, 3, 4))
        return *_nearest(gaps, normals, jnp.where(usable, step * size, 0), norm), usable, steep

    def nearer(kept, others):
        found = nearest_of(others)
        closer = found[0] < kept[0]
        gap, normal = jnp.where(closer, found[1], kept[1]), keep_where(closer, found[2], kept[2])
        return (jnp.minimum(found[0], kept[0]), gap, normal, kept[3] & found[3], kept[4] | found[4]), None

    count = others.shape[1]
    together = max(1, ROOM // (images.size * images.dtype.itemsize))
    found = nearest_of(others[:, :together])
    if count > together:
        # Filled up with the last class, which is not nearer than itself.
        rest = jnp.minimum(together + np.arange(-(-(count - together) // together) * together), count - 1)
        chunks = others[:, rest].reshape(len(others), -1, together)
        found, _ = jax.lax.scan(nearer, found, jnp.moveaxis(chunks, 1, 0))
    _, gap, normal, usable, steep = found
    if count > together:
        gap, normal = jnp.where(usable, gap, 0), keep_where(usable, normal, jnp.zeros_like(normal))
    return Boundary(outputs, gap, normal, usable, steep & usable, count)


def _nearest(gaps: Any, normals: Any, rounding: Any, norm: str) -> tuple[Any, Any, Any]:
    """Return the distance, gap and normal of the nearest of k boundaries."""
    # Twice, for what is beyond the powers of two at hand.
    rounding = jnp.broadcast_to(rounding, gaps.shape)
    largest = float(jnp.finfo(normals.dtype).max) / 4  # a gap that is beyond all reach must stay a number
    for _ in range(2):
        scale = 1 / power_of_two(jnp.abs(normals).max(axis=(2, 3, 4)))
        normals = normals * scale[:, :, None, None, None]
        gaps, rounding = (jnp.clip(each * scale, -largest, largest) for each in (gaps, rounding))
    if norm == "linf":
        size = jnp.abs(normals).sum(axis=(2, 3, 4))
    else:
        size = jnp.sqrt((normals * normals).sum(axis=(2, 3, 4)))
    distance = jnp.where(size > 0, jnp.abs(gaps) / jnp.where(size > 0, size, 1), jnp.inf)
    chosen = jnp.argmin(distance, axis=0)[None]
    least, gap, rounding = (jnp.take_along_axis(each, chosen, axis=0)[0] for each in (distance, gaps, rounding))
    normal = jnp.take_along_axis(normals, chosen[..., None, None, None], axis=0)[0]
    return least, jnp.where(jnp.abs(gap) < rounding, rounding, gap), normal


def shortest_step(
    point: Float[Array, "*shape"], normal: Float[Array, "*shape"], need: Any, *, norm: str
) -> Float[Array, "*shape"]:
    """Return the shortest step along which a linear function grows by ``need``, staying within [0, 1].

    Where the box does not hold such a step, it is the one that comes nearest: to a corner.

    Args:
        point: one image, of any shape.
        normal: the linear function's gradient, same shape.
        need: by how much it is to grow, or, where negative, to fall; a scalar.
        norm: ``"linf"`` or ``"l2"``: in which the step is shortest.

    Returns:
        The step, same shape.

    Source: the problem is that of Croce and Hein 2020 (arXiv 1907.02044), section 3.1, who sort the pixels. Ours: the
    growth is a concave, piecewise linear function of one multiplier, so Newton's method comes from below, never passes
    the solution, and meets it after a few breakpoints; sorting takes many times longer.
    """
    scale = 1 / power_of_two(jnp.abs(normal).max())
    weights = jnp.abs(normal) * scale
    signs = jnp.sign(normal) * jnp.where(need < 0, -1, 1).astype(normal.dtype)
    largest = jnp.finfo(normal.dtype).max
    need = jnp.minimum(jnp.abs(need) * scale, largest)
    room = jnp.where(signs > 0, 1 - point, point)
    speeds = jnp.ones_like(weights) if norm == "linf" else weights

    def grown(multiplier):
        steps = multiplier * speeds
        missing = need - (weights * jnp.minimum(steps, room)).sum()
        return missing, jnp.where(steps < room, weights * speeds, 0).sum()

    def unfinished(carried):
        number, _, missing, slope = carried
        return (missing > tolerance * need) & (slope > 0) & (number < NEWTON_STEPS)

    def closer(carried):
        number, multiplier, missing, slope = carried
        multiplier = jnp.minimum(multiplier + missing / slope, largest)
        return number + 1, multiplier, *grown(multiplier)

    tolerance, zero = 8 * jnp.finfo(normal.dtype).eps, jnp.zeros((), normal.dtype)
    _, multiplier, _, _ = jax.lax.while_loop(unfinished, closer, (0, zero, *grown(zero)))
    # Where nothing has room left, or the function is constant, the multiplier stands still.
    return signs * jnp.minimum(multiplier * speeds, room)
