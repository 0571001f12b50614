"""The balls that perturbations live in: projection, random points and steepest directions, per image."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpurify.precision import divided, power_of_two, unit_scaled


class Ball(NamedTuple):
    """What an attack needs of a norm; every function is of one image's perturbation, of any shape.

    Attributes:
        size: ``perturbation`` to its norm.
        project: ``(perturbation, epsilon)`` to the nearest perturbation in the ball.
        inside: ``(moved, image, epsilon)`` to an image in the ball around ``image`` and in [0, 1]: in the linf and l1
            norms the nearest one, in the l2 norm the projection onto the ball, clipped, as the attacks' papers have it.
        sample: ``(key, shape, dtype, epsilon)`` to a uniform random point of the ball.
        direction: ``gradient`` to the unit-norm perturbation of steepest ascent (zero where the gradient is zero).
        corner: ``(key, shape, dtype, epsilon)`` to a random perturbation of the largest size allowed.
    """

    size: Callable[[Any], Any]
    project: Callable[[Any, Any], Any]
    inside: Callable[[Any, Any, Any], Any]
    sample: Callable[..., Any]
    direction: Callable[[Any], Any]
    corner: Callable[..., Any]


def length(perturbation: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Return the Euclidean length, with gradient zero in the place of NaN at zero.

    Args:
        perturbation: values of any shape.

    Returns:
        A scalar.
    """
    # Squares of what is below 1e-19 would vanish in float32; to divide by a power of two rounds nothing.
    unit = power_of_two(jax.lax.stop_gradient(jnp.abs(perturbation).max(initial=0)))
    square = jnp.sum(jnp.square(perturbation / unit))
    safe = jnp.where(square > 0, square, jnp.ones_like(square))
    return unit * jnp.where(square > 0, jnp.sqrt(safe), jnp.zeros_like(square))


def _linf_size(perturbation):
    return jnp.abs(perturbation).max()


def _linf_project(perturbation, epsilon):
    return jnp.clip(perturbation, -epsilon, epsilon)


def _linf_sample(key, shape, dtype, epsilon):
    return jax.random.uniform(key, shape, dtype, -1, 1) * epsilon


def _linf_corner(key, shape, dtype, epsilon):
    return jnp.where(jax.random.bits(key, shape, jnp.uint8) < 128, epsilon, -epsilon).astype(dtype)


def _l2_project(perturbation, epsilon):
    size = length(perturbation)
    outside = size > epsilon
    return perturbation * jnp.where(outside, epsilon / jnp.where(outside, size, jnp.ones_like(size)), 1)


def _l2_direction(gradient):
    # Gradients of a confident network can be so small that their squares vanish in float32.
    scaled = unit_scaled(gradient)
    return divided(scaled, length(scaled))


def _l2_corner(key, shape, dtype, epsilon):
    return _l2_direction(jax.random.normal(key, shape, dtype)) * epsilon


def _l2_sample(key, shape, dtype, epsilon):
    direction, radius = jax.random.split(key)
    share = jax.random.uniform(radius, (), dtype) ** (1 / math.prod(shape))
    return _l2_corner(direction, shape, dtype, epsilon) * share


def _l1_size(perturbation):
    return jnp.abs(perturbation).sum()


def _l1_project(perturbation, epsilon):
    return _l1_shrink(perturbation, epsilon, -jnp.inf, jnp.inf)


def _l1_inside(moved, image, epsilon):
    perturbation = _l1_shrink(moved - image, epsilon, -image, 1 - image)
    return jnp.clip(image + perturbation, 0, 1)


def _l1_shrink(perturbation, epsilon, low, high):
    """Return the nearest point of the ball and of a box around zero: soft shrinkage, then clipping.

    How far to shrink is found by bisection: sorting, the usual way, is many times slower.
    """
    sizes = jnp.abs(perturbation)
    room = jnp.maximum(jnp.where(perturbation > 0, high, -low), 0)

    def shrunk(threshold):
        return jnp.clip(jnp.sign(perturbation) * jnp.maximum(sizes - threshold, 0), low, high)

    def halve(_, bounds):
        near, far = bounds
        middle = (near + far) / 2
        outside = jnp.clip(sizes - middle, 0, room).sum() > epsilon
        return jnp.where(outside, middle, near), jnp.where(outside, far, middle)

    zero = jnp.zeros((), perturbation.dtype)
    halvings = jnp.finfo(perturbation.dtype).nmant + 8
    _, far = jax.lax.fori_loop(0, halvings, halve, (zero, sizes.max()))
    return shrunk(jnp.where(_l1_size(shrunk(zero)) > epsilon, far, zero))


def _l1_direction(gradient):
    """Return the steepest direction: all of the step in the entries of the largest magnitude."""
    sizes = jnp.abs(gradient)
    largest = jnp.where(sizes == sizes.max(), jnp.sign(gradient), jnp.zeros_like(gradient))
    return largest / jnp.maximum(jnp.abs(largest).sum(), 1)


def _l1_corner(key, shape, dtype, epsilon):
    # Laplace noise divided by its length is uniform on the sphere of the l1 norm.
    noise = jax.random.laplace(key, shape, dtype)
    return divided(noise, _l1_size(noise)) * epsilon


def _l1_sample(key, shape, dtype, epsilon):
    direction, radius = jax.random.split(key)
    share = jax.random.uniform(radius, (), dtype) ** (1 / math.prod(shape))
    return _l1_corner(direction, shape, dtype, epsilon) * share


def _clipped(project):
    return lambda moved, image, epsilon: jnp.clip(image + project(moved - image, epsilon), 0, 1)


BALLS = {
    "linf": Ball(_linf_size, _linf_project, _clipped(_linf_project), _linf_sample, jnp.sign, _linf_corner),
    "l2": Ball(length, _l2_project, _clipped(_l2_project), _l2_sample, _l2_direction, _l2_corner),
    "l1": Ball(_l1_size, _l1_project, _l1_inside, _l1_sample, _l1_direction, _l1_corner),
}


def ball(norm: str) -> Ball:
    """Return the ball of a norm.

    Args:
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.

    Returns:
        Its functions.

    Raises:
        ValueError: if the norm is unknown.
    """
    if norm not in BALLS:
        raise ValueError(f"norm must be one of {sorted(BALLS)}, got {norm!r}")
    return BALLS[norm]
