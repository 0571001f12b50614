"""Gaussian smoothing in closed form against SciPy's, pass by pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from jaxpurify.transforms.gaussian import gaussian_smooth, smoothing_operator

SCIPY_MODES = {"symmetric": "reflect", "mirror": "mirror"}
SHAPES = ((2, 33, 47, 3), (1, 1, 9, 1), (1, 8, 8, 2))
smooth = jax.jit(gaussian_smooth, static_argnames=("boundary", "truncate"))


def noise(shape, dtype=np.float32):
    return np.random.default_rng(0).random(shape).astype(dtype)


def scipy_smooth(images, *, sigma, iterations, boundary="symmetric", truncate=4.0):
    smoothed = np.asarray(images, np.float64)
    for _ in range(iterations):
        smoothed = gaussian_filter(smoothed, sigma, mode=SCIPY_MODES[boundary], truncate=truncate, axes=(1, 2))
    return smoothed


@pytest.mark.parametrize("boundary", SCIPY_MODES)
@pytest.mark.parametrize("iterations", [1, 10, 100])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_repeated_scipy_passes_borders_included(shape, iterations, boundary):
    images = noise(shape)
    for sigma in (0.3, 0.5, 1.0, 1.7, 4.0):
        expected = scipy_smooth(images, sigma=sigma, iterations=iterations, boundary=boundary)
        smoothed = smooth(images, sigma=sigma, iterations=iterations, boundary=boundary)
        assert smoothed.dtype == jnp.float32
        np.testing.assert_allclose(smoothed, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("boundary", SCIPY_MODES)
@pytest.mark.parametrize("iterations", [1, 10, 100])
def test_float64_images_are_smoothed_in_float64(iterations, boundary, x64):
    images = noise(SHAPES[0], np.float64)
    for sigma in (0.3, 0.5, 1.0, 1.7, 4.0):
        expected = scipy_smooth(images, sigma=sigma, iterations=iterations, boundary=boundary)
        smoothed = smooth(images, sigma=sigma, iterations=iterations, boundary=boundary)
        assert smoothed.dtype == jnp.float64
        np.testing.assert_allclose(smoothed, expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize("boundary", SCIPY_MODES)
def test_equals_scipy_at_the_size_of_an_imagenet_image(boundary):
    images = noise((1, 223, 225, 1))
    for sigma, iterations in ((0.3, 1), (1.0, 1), (1.0, 10)):
        expected = scipy_smooth(images, sigma=sigma, iterations=iterations, boundary=boundary)
        smoothed = smooth(images, sigma=sigma, iterations=iterations, boundary=boundary)
        np.testing.assert_allclose(smoothed, expected, atol=2e-6, rtol=0)


def test_a_slow_wave_decays_as_it_should_over_a_thousand_passes():
    wave = np.cos(np.pi * (np.arange(64) + 0.5) / 64)
    weights = np.exp(-0.5 * (np.arange(-2, 3) / 0.5) ** 2)
    decay = np.sum(weights / weights.sum() * np.cos(np.arange(-2, 3) * np.pi / 64)) ** 1000
    images = np.broadcast_to(wave[None, :, None, None], (1, 64, 8, 1)).astype(np.float32)
    smoothed = smooth(images, sigma=0.5, iterations=1000)
    np.testing.assert_allclose(smoothed[0, :, 0, 0], decay * wave, atol=1e-6, rtol=0)


@pytest.mark.parametrize("boundary", SCIPY_MODES)
def test_a_kernel_larger_than_the_image_is_folded_back(boundary):
    images = noise((1, 5, 3, 1))
    for sigma in (3.0, 20.0, 100.0, 1000.0):
        expected = scipy_smooth(images, sigma=sigma, iterations=1, boundary=boundary)
        np.testing.assert_allclose(smooth(images, sigma=sigma, boundary=boundary), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("truncate", [1.0, 3.0, 5.0])
def test_the_radius_in_float32_is_scipys(truncate):
    images = noise((1, 19, 1, 1))
    for sigma in np.round(np.arange(0.05, 3.01, 0.05), 2):
        expected = scipy_smooth(images, sigma=float(sigma), iterations=1, truncate=truncate)
        smoothed = smooth(images, sigma=float(sigma), truncate=truncate)
        np.testing.assert_allclose(smoothed, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("boundary", SCIPY_MODES)
def test_no_smoothing_changes_no_bit(boundary):
    images = noise(SHAPES[0])
    for sigma, iterations in ((0.0, 1.0), (0.1, 100.0), (1.0, 0.0), (0.0, 0.0)):
        np.testing.assert_array_equal(smooth(images, sigma=sigma, iterations=iterations, boundary=boundary), images)


def test_the_mean_of_an_image_stays():
    images = noise(SHAPES[0])
    smoothed = smooth(images, sigma=1.3, iterations=7.5)
    np.testing.assert_allclose(np.mean(smoothed, axis=(1, 2)), np.mean(images, axis=(1, 2)), atol=1e-6)


def test_a_flat_image_stays_under_mirrored_borders():
    images = np.full(SHAPES[0], 0.75, np.float32)
    np.testing.assert_allclose(smooth(images, sigma=1.3, iterations=7.5, boundary="mirror"), images, atol=1e-6)


def test_many_passes_equal_one_wide_pass_away_from_borders():
    images = noise((1, 97, 97, 1))
    many = smooth(images, sigma=1.0, iterations=9, truncate=8.0)
    once = smooth(images, sigma=3.0, iterations=1, truncate=8.0)
    np.testing.assert_allclose(many[:, 40:57, 40:57], once[:, 40:57, 40:57], atol=2e-6)


def test_broken_numbers_of_passes_add_up(x64):
    images = noise((1, 14, 14, 1), np.float64)
    apart = smooth(smooth(images, sigma=0.7, iterations=1.25), sigma=0.7, iterations=2.5)
    np.testing.assert_allclose(apart, smooth(images, sigma=0.7, iterations=3.75), atol=1e-12)


def test_whole_passes_are_exact_where_eigenvalues_are_negative(x64):
    once = smoothing_operator(16, sigma=1.0, truncate=1.0, dtype=jnp.float64)
    assert np.linalg.eigvals(np.asarray(once)).real.min() < -0.05
    thrice = smoothing_operator(16, sigma=1.0, truncate=1.0, iterations=3, dtype=jnp.float64)
    np.testing.assert_allclose(thrice, np.linalg.matrix_power(np.asarray(once), 3), atol=1e-14)


def test_traced_numbers_give_what_given_numbers_give():
    images = jnp.asarray(noise((2, 15, 20, 3)))
    sigmas, iterations = jnp.array([0.25, 1.0, 2.3]), jnp.array([3.0, 1.0, 7.25])
    swept = jax.vmap(lambda s, k: gaussian_smooth(images, sigma=s, iterations=k))(sigmas, iterations)
    for row, sigma, number in zip(swept, sigmas, iterations, strict=True):
        given = gaussian_smooth(images, sigma=float(sigma), iterations=float(number))
        np.testing.assert_allclose(row, given, atol=1e-6)


def test_five_sigmas_and_numbers_of_passes_compile_once():
    function = jax.jit(lambda x, s, k: gaussian_smooth(x, sigma=s, iterations=k))
    images = jnp.asarray(noise((1, 8, 8, 1)))
    for number in range(5):
        function(images, 0.3 + number, 1.0 + 3 * number)
    assert function._cache_size() == 1


def test_an_image_has_the_same_bits_in_every_batch():
    images = noise((64, 32, 32, 3))
    whole = smooth(images, sigma=1.0, iterations=10)
    for part in (slice(5, 6), slice(32, 64)):
        np.testing.assert_array_equal(smooth(images[part], sigma=1.0, iterations=10), whole[part])


@pytest.mark.parametrize(("boundary", "truncate"), [("symmetric", 1.0), ("mirror", 4.0)])
def test_derivatives_equal_finite_differences(boundary, truncate, x64):
    # Truncated at one sigma, some eigenvalues are negative.
    images, weights = noise((2, 9, 6, 2), np.float64), np.random.default_rng(1).normal(size=(2, 9, 6, 2))
    direction = np.random.default_rng(2).normal(size=images.shape)

    @jax.jit
    def value(images, sigma, iterations):
        options = {"boundary": boundary, "truncate": truncate}
        return jnp.sum(weights * gaussian_smooth(images, sigma=sigma, iterations=iterations, **options) ** 2)

    slopes = jax.jit(jax.grad(value, argnums=(0, 1, 2)))
    # No sigma here is within the step of one where the radius jumps.
    for sigma, iterations in ((0.8, 1.0), (1.2, 2.5), (1.7, 10.0)):
        images_slope, sigma_slope, iterations_slope = slopes(images, sigma, iterations)
        step = 1e-6
        for slope, change in (
            (np.sum(np.asarray(images_slope) * direction), (step * direction, 0.0, 0.0)),
            (sigma_slope, (0.0, step, 0.0)),
            (iterations_slope, (0.0, 0.0, step)),
        ):
            point = (images, sigma, iterations)
            above = value(*(x + dx for x, dx in zip(point, change, strict=True)))
            below = value(*(x - dx for x, dx in zip(point, change, strict=True)))
            np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-6, atol=1e-8)


def test_derivatives_are_finite_down_to_sigma_zero_and_up_to_a_flat_image():
    images = jnp.asarray(noise((1, 6, 5, 1)))

    def value(images, sigma, iterations):
        return jnp.sum(gaussian_smooth(images, sigma=sigma, iterations=iterations) ** 2)

    slopes = jax.jit(jax.grad(value, argnums=(0, 1, 2)))
    for iterations in (0.0, 0.5, 1.0, 100.0):
        for sigma in (0.0, 1e-30, 0.12, 0.13, 50.0, 1e6):
            assert all(np.isfinite(slope).all() for slope in slopes(images, sigma, iterations)), (sigma, iterations)


def test_a_traced_nan_is_not_hidden():
    images = noise(SHAPES[1])
    assert np.isnan(smooth(images, sigma=jnp.nan)).all()
    assert np.isnan(smooth(images, sigma=1.0, iterations=jnp.nan)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": -1.0}, "sigma must be finite and at least 0, got -1.0"),
        ({"sigma": float("nan")}, "sigma must be finite and at least 0, got nan"),
        ({"sigma": np.ones(3)}, r"sigma must be a scalar, got shape \(3,\): several values\? use sweep"),
        ({"sigma": 1.0, "iterations": -2}, "iterations must be finite and at least 0, got -2"),
        ({"sigma": 1.0, "boundary": "reflect"}, "boundary must be one of symmetric, mirror, got 'reflect'"),
        ({"sigma": 1.0, "truncate": 0.0}, "truncate must be a finite number of standard deviations above 0, got 0.0"),
    ],
)
def test_bad_numbers_are_refused_in_one_sentence(options, message):
    images = jnp.asarray(noise((1, 4, 4, 1)))
    for function in (functools.partial(gaussian_smooth, images), functools.partial(smoothing_operator, 4)):
        with pytest.raises(ValueError, match=message):
            function(**options)
