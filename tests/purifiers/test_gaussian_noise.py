"""Gaussian noise: its distribution, its keys, its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxpurify import keys as jk
from jaxpurify.purifiers.gaussian_noise import GaussianNoise
from jaxpurify.testing import check_purifier

GREY = jnp.full((4, 64, 64, 3), 0.5)


def test_the_noise_is_normal_and_of_the_given_standard_deviation():
    noise = np.asarray(GaussianNoise(sigma=0.1)(GREY, jax.random.key(0)) - 0.5).ravel()
    # Kolmogorov and Smirnov's distance of 49152 draws exceeds 1.63 / √n once in a hundred.
    assert stats.kstest(noise, stats.norm(scale=0.1).cdf).statistic < 1.63 / np.sqrt(noise.size)


def test_images_and_keys_draw_apart():
    first, second = GaussianNoise()(GREY, jax.random.key(0)) - 0.5, GaussianNoise()(GREY, jax.random.key(1)) - 0.5
    correlations = np.abs(np.corrcoef(np.concatenate([first, second]).reshape(8, -1)) - np.eye(8))
    assert correlations.max() < 5 / np.sqrt(64 * 64 * 3)


def test_no_noise_changes_no_bit():
    np.testing.assert_array_equal(GaussianNoise(sigma=0)(GREY, jax.random.key(0)), GREY)


def test_the_gradient_is_the_identitys_and_that_of_sigma_the_noise():
    keys = jk.per_image(jax.random.key(0), 4)

    def total(purifier, images):
        return purifier(images, keys).sum()

    to_purifier, to_images = jax.grad(total, argnums=(0, 1))(GaussianNoise(sigma=0.05), GREY)
    np.testing.assert_array_equal(to_images, np.ones(GREY.shape))
    noise = (GaussianNoise(sigma=0.05)(GREY, keys) - 0.5) / 0.05
    np.testing.assert_allclose(to_purifier.sigma, noise.sum(), rtol=1e-3)


@pytest.mark.slow
def test_it_keeps_the_contract_in_float64(x64):
    check_purifier(GaussianNoise(sigma=0.2), size=(5, 6))


@pytest.mark.slow
@pytest.mark.parametrize(("size", "channels"), [((1, 7), 1), ((32, 32), 3)])
def test_it_keeps_the_contract(size, channels):
    check_purifier(GaussianNoise(), size=size, channels=channels)


@pytest.mark.parametrize(("sigma", "message"), [(-1.0, "at least 0, got -1.0"), (float("inf"), "got inf: divide by")])
def test_a_sigma_that_cannot_be_meant_is_refused(sigma, message):
    with pytest.raises(ValueError, match=message):
        GaussianNoise(sigma=sigma)
