"""The median network against SciPy's filter, value for value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import median_filter as scipy_median

from jaxpurify.testing import check_gradient
from jaxpurify.transforms.median import median_filter


def noise(shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(0).random(shape), dtype)


@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize("shape", [(2, 31, 45, 3), (1, 7, 1, 3), (1, 1, 9, 1), (1, 2, 3, 1)])
def test_equals_scipy_in_every_value(shape, size):
    for images in (noise(shape), jnp.round(noise(shape) * 8) / 8):
        expected = scipy_median(np.asarray(images), size=(1, size, size, 1), mode="reflect")
        np.testing.assert_array_equal(median_filter(images, size=size), expected)


def test_every_order_of_a_window_gives_its_median():
    # A network that sorts every row of 0s and 1s sorts everything (the 0-1 principle).
    windows = (np.arange(2**9)[:, None] >> np.arange(9)) & 1
    images = jnp.asarray(windows.reshape(-1, 3, 3, 1), jnp.float32)
    np.testing.assert_array_equal(median_filter(images, size=3)[:, 1, 1, 0], np.median(windows, axis=1))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_gradient_is_that_of_finite_differences_where_values_differ(size, x64):
    # A permutation: no two values are closer than a hundred steps.
    images = np.random.default_rng(1).permutation(2 * 7 * 6 * 2).reshape(2, 7, 6, 2) / 168
    check_gradient(lambda images: median_filter(images, size=size), jnp.asarray(images))


def test_tied_pixels_share_the_gradient():
    gradient = jax.grad(lambda images: median_filter(images, size=3)[0, 2, 2, 0])(jnp.full((1, 5, 5, 1), 0.5))
    expected = np.zeros((5, 5))
    expected[1:4, 1:4] = 1 / 9
    np.testing.assert_allclose(gradient[0, :, :, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_no_gradient_is_lost_at_borders_and_ties(size):
    images = jnp.round(noise((2, 6, 7, 3)) * 4) / 4
    weights = noise(images.shape)
    gradient = jax.grad(lambda images: jnp.sum(median_filter(images, size=size) * weights))(images)
    np.testing.assert_allclose(np.sum(gradient, axis=(1, 2)), np.sum(weights, axis=(1, 2)), rtol=1e-5)


def test_float64_images_stay_float64(x64):
    images = noise((1, 9, 8, 1), np.float64)
    expected = scipy_median(np.asarray(images), size=(1, 3, 3, 1), mode="reflect")
    np.testing.assert_array_equal(median_filter(images, size=3), expected)


@pytest.mark.parametrize("size", [0, -1, 8, True])
def test_other_windows_are_refused(size):
    with pytest.raises(ValueError, match="size must be an integer from 1 to 7"):
        median_filter(noise((1, 4, 4, 1)), size=size)
