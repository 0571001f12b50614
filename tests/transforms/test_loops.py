"""Loops over images and passes: they compute what plain Python loops compute, and their gradients stay small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify.transforms.loops import image_by_image, repeat


def logistic(state):
    value, rate = state
    return rate * value * (1 - value), rate


def unrolled(state, times):
    for _ in range(times):
        state = logistic(state)
    return state


@pytest.mark.parametrize("times", [0, 1, 2, 7, 12, 50])
def test_repeating_equals_a_plain_loop_and_so_does_its_gradient(times):
    def last(run):
        return jax.value_and_grad(lambda value: run((value, jnp.float32(2.9)))[0])(jnp.float32(0.3))

    value, slope = last(lambda state: repeat(logistic, state, times=times))
    expected, expected_slope = last(lambda state: unrolled(state, times))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-4, atol=1e-12)


def test_the_memory_of_the_gradient_grows_with_the_root_of_the_number_of_passes():
    image = jnp.ones((100, 100), jnp.float32)

    def states(times):
        gradient = jax.grad(lambda image: jnp.sum(repeat(jnp.sin, image, times=times)))
        return jax.jit(gradient).lower(image).compile().memory_analysis().temp_size_in_bytes / image.nbytes

    assert states(400) < 60
    assert states(400) < 6 * states(16)


def test_image_by_image_equals_vmap():
    images = jnp.asarray(np.random.default_rng(0).random((3, 4, 5, 2), np.float32))
    numbers = jnp.arange(3.0)
    found = image_by_image(lambda image, number: jnp.sum(image) * number, images, numbers)
    np.testing.assert_allclose(found, images.sum((1, 2, 3)) * numbers, rtol=1e-6)
