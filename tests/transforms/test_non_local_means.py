"""Non-local means against scikit-image's, exponential and all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.restoration import denoise_nl_means

from jaxpurify.testing import check_gradient
from jaxpurify.transforms.non_local_means import _exponential, non_local_means

OPTIONS = [
    {"h": 0.05, "sigma": 0.0, "patch_size": 3, "patch_distance": 5},
    {"h": 0.1, "sigma": 0.0, "patch_size": 5, "patch_distance": 3},
    {"h": 0.03, "sigma": 0.03, "patch_size": 7, "patch_distance": 2},
]


def waves(shape, dtype=np.float32):
    """A picture that repeats itself, with noise."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    picture = 0.5 + 0.2 * np.sin(rows / 2)[None, :, :, None] * np.cos(columns / 3)[None, :, :, None]
    return jnp.asarray(np.clip(picture + random.normal(0, 0.03, shape), 0, 1), dtype)


def expected(image, options):
    found = denoise_nl_means(np.asarray(image, np.float64), fast_mode=False, channel_axis=-1, **options)
    return np.asarray(found).reshape(image.shape)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", [(2, 21, 33, 3), (1, 16, 16, 1), (1, 7, 1, 3), (1, 1, 9, 1), (1, 1, 1, 3)])
def test_equals_scikit_image(shape, options):
    images = waves(shape)
    found = non_local_means(images, **options)
    assert found.dtype == jnp.float32
    for image, denoised in zip(images, found, strict=True):
        np.testing.assert_allclose(denoised, expected(image, options), atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_float64_images_are_denoised_in_float64(options, x64):
    (image,) = images = waves((1, 15, 14, 3), np.float64)
    # What is left is the rounding of scikit-image's exponential to a millionth.
    np.testing.assert_allclose(non_local_means(images, **options)[0], expected(image, options), atol=1e-6)


def test_the_exponential_is_within_four_percent(x64):
    exponents = np.linspace(-5, 0, 10001)
    for dtype in (np.float32, np.float64):
        found = _exponential(jnp.asarray(exponents, dtype))
        assert np.max(np.abs(np.asarray(found) / np.exp(exponents) - 1)) < 0.04


def test_the_gradient_is_that_of_finite_differences(x64):
    def function(inputs):
        return non_local_means(inputs["images"], h=inputs["h"], sigma=inputs["sigma"], patch_distance=2)

    inputs = {"images": waves((2, 6, 5, 2), np.float64), "h": 0.11, "sigma": 0.02}
    check_gradient(function, jax.tree.map(jnp.asarray, inputs), step=1e-7, tolerance=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_flat_images_stay_and_have_a_finite_gradient(value):
    flat = jnp.full((1, 8, 9, 1), value)
    weights = waves(flat.shape)
    found, pull = jax.vjp(lambda images: non_local_means(images, h=0.05), flat)
    np.testing.assert_allclose(found, flat, atol=1e-6)
    (gradient,) = pull(weights)
    np.testing.assert_allclose(np.sum(gradient), np.sum(weights), rtol=1e-5)


def test_the_memory_of_the_gradient_does_not_grow_with_the_number_of_offsets():
    images = waves((1, 48, 48, 3))

    def memory(distance):
        gradient = jax.grad(lambda images: jnp.sum(non_local_means(images, h=0.05, patch_distance=distance) ** 2))
        return jax.jit(gradient).lower(images).compile().memory_analysis().temp_size_in_bytes

    # From 12 offsets to 220, with a wider margin around the image.
    assert memory(10) < 4 * memory(2)


@pytest.mark.parametrize(
    "option",
    [{"h": 0.0}, {"h": np.nan}, {"sigma": -1.0}, {"patch_size": 4}, {"patch_size": 1}, {"patch_distance": 0}],
)
def test_nonsense_is_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        non_local_means(waves((1, 4, 4, 1)), **{"h": 0.1} | option)
