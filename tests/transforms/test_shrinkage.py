"""Thresholds against PyWavelets', threshold rules against scikit-image's formulas, medians against NumPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pywt

from jaxpurify.testing import check_gradient
from jaxpurify.transforms.shrinkage import (
    bayes_threshold,
    estimate_sigma,
    garrote_threshold,
    hard_threshold,
    soft_threshold,
    visu_threshold,
)

FUNCTIONS = {"soft": soft_threshold, "hard": hard_threshold, "garrote": garrote_threshold}


def band(shape=(2, 9, 7, 3), scale=1.0):
    return np.random.default_rng(0).normal(0, scale, shape).astype(np.float32)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_pywavelets(name):
    coefficients = np.concatenate([band().ravel(), [0.0, 0.7, -0.7]]).astype(np.float32)
    for threshold in (0.7, 5.0):
        expected = pywt.threshold(coefficients, np.float32(threshold), name)
        np.testing.assert_allclose(FUNCTIONS[name](jnp.asarray(coefficients), threshold), expected, atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_threshold_zero_is_the_identity_with_its_gradient(name):
    coefficients = jnp.array([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(FUNCTIONS[name](coefficients, 0.0), coefficients)
    np.testing.assert_array_equal(jax.grad(lambda d: jnp.sum(FUNCTIONS[name](d, 0.0)))(coefficients), 1.0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_equal_finite_differences(name, x64):
    inputs = {"coefficients": jnp.array([-3.0, -0.4, 0.0, 0.2, 0.9, 2.5]), "threshold": jnp.array(0.7)}
    check_gradient(lambda inputs: FUNCTIONS[name](**inputs), inputs)


def test_bayes_threshold_equals_its_formula_image_by_image():
    details, sigma = band(scale=0.1), 0.05
    threshold = bayes_threshold(jnp.asarray(details), sigma=sigma)
    assert threshold.shape == (2, 1, 1, 3)
    for image in range(2):
        for channel in range(3):
            d = details[image, ..., channel].astype(np.float64)
            expected = sigma**2 / np.sqrt(np.mean(d**2) - sigma**2)
            np.testing.assert_allclose(threshold[image, 0, 0, channel], expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 0.01])
def test_a_band_of_nothing_but_noise_is_removed_with_finite_gradients(scale):
    details = jnp.asarray(band(scale=scale))

    def shrunk(details, sigma):
        return soft_threshold(details, bayes_threshold(details, sigma=sigma))

    np.testing.assert_array_equal(shrunk(details, 0.05), 0.0)
    for gradient in jax.grad(lambda d, s: jnp.sum(shrunk(d, s)), argnums=(0, 1))(details, 0.05):
        assert np.isfinite(gradient).all()


def test_visu_threshold_is_the_universal_one():
    assert float(visu_threshold(sigma=0.1, pixels=100)) == pytest.approx(0.1 * np.sqrt(2 * np.log(100)))


@pytest.mark.parametrize("shape", [(2, 9, 7, 3), (2, 8, 7, 1), (1, 1, 1, 1), (1, 1, 2, 1)])
def test_the_estimate_is_the_median_exactly(shape):
    diagonal = band(shape)
    estimate = estimate_sigma(jnp.asarray(diagonal))
    expected = np.median(np.abs(diagonal), axis=(1, 2), keepdims=True) / np.float32(0.6744897501960817)
    np.testing.assert_allclose(estimate, expected, rtol=2e-7)


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0, 1.0], [1.0, 2.0, 2.0, 3.0], [1.0, 1.0, 2.0, 2.0], [0.0]])
def test_ties_and_zeros_have_their_median_and_a_finite_gradient(values):
    diagonal = jnp.array(values).reshape(1, 1, -1, 1)
    value, gradient = jax.value_and_grad(lambda d: estimate_sigma(d)[0, 0, 0, 0])(diagonal)
    assert float(value) == pytest.approx(np.median(values) / 0.6744897501960817, rel=1e-6)
    assert np.isfinite(gradient).all()


def test_the_estimate_finds_the_noise_of_each_image_and_channel():
    scales = np.array([[0.01, 0.05, 0.1], [0.2, 0.02, 0.04]], np.float32)[:, None, None, :]
    noise = band((2, 100, 100, 3)) * scales
    np.testing.assert_allclose(estimate_sigma(jnp.asarray(noise)), scales, rtol=0.05)


@pytest.mark.parametrize("shape", [(1, 5, 3, 2), (1, 4, 3, 2)])
def test_the_gradient_of_the_estimate_equals_finite_differences(shape, x64):
    check_gradient(estimate_sigma, jnp.asarray(band(shape).astype(np.float64)))


def test_planar_bands_are_estimated_alike():
    diagonal = jnp.asarray(band())
    planar = estimate_sigma(diagonal.transpose(0, 3, 1, 2), axes=(2, 3))
    np.testing.assert_array_equal(planar.transpose(0, 2, 3, 1), estimate_sigma(diagonal))
