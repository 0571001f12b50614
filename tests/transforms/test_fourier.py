"""Filters in the Fourier domain against NumPy's transform."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify.testing import check_gradient
from jaxpurify.transforms.fourier import fft_filter


def symmetric_gains(batch, height, width):
    """Gains of the full transform that are the same at a frequency and its negative."""
    gains = np.random.default_rng(1).random((batch, height, width))
    return (gains + np.roll(gains[:, ::-1, ::-1], 1, axis=(1, 2))) / 2


@pytest.mark.parametrize("size", [(8, 6), (7, 9), (8, 9), (1, 5), (1, 1)])
def test_it_multiplies_the_full_transform(size):
    images = np.random.default_rng(0).random((2, *size, 3))
    gains = symmetric_gains(2, *size)
    expected = np.fft.ifft2(np.fft.fft2(images, axes=(1, 2)) * gains[..., None], axes=(1, 2))
    assert np.abs(expected.imag).max() < 1e-12
    half = jnp.asarray(gains[..., : size[1] // 2 + 1], jnp.float32)
    np.testing.assert_allclose(fft_filter(jnp.asarray(images, jnp.float32), half), expected.real, atol=1e-6)


def test_its_gradient_is_its_finite_difference(x64):
    images = jnp.asarray(np.random.default_rng(0).random((2, 5, 6, 1)))
    gains = jnp.asarray(symmetric_gains(1, 5, 6)[..., :4])
    check_gradient(lambda x: fft_filter(x, gains), images)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"gains must have shape \(2, 8, 4\) or \(1, 8, 4\), got \(2, 8, 6\)"):
        fft_filter(jnp.zeros((2, 8, 6, 3)), jnp.zeros((2, 8, 6)))
