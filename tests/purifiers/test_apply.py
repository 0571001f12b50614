"""Purifying images as they come."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from jaxpurify.models import purifier
from jaxpurify.purifiers import apply
from jaxpurify.purifiers.apply import bucket, purify
from jaxpurify.purifiers.identity import Identity
from jaxpurify.purifiers.smoothing import GaussianSmoothing

SMOOTH = GaussianSmoothing(sigma=1.0, iterations=2)


@purifier
class AddNoise:
    random = True

    def __call__(self, images, key=None):
        noise = jax.vmap(lambda k: jax.random.uniform(k, images.shape[1:], images.dtype))(key)
        return images * jnp.asarray(0.5, images.dtype) + noise * jnp.asarray(0.5, images.dtype)


@purifier
class Double:
    changes_size = True

    def __call__(self, images, key=None):
        return jnp.repeat(jnp.repeat(images, 2, axis=1), 2, axis=2)


@purifier
class Centre:
    couples_images = True

    def __call__(self, images, key=None):
        return images * jnp.asarray(0.0, images.dtype) + images.mean(axis=0, keepdims=True)


def picture(*shape, seed=0, dtype=np.float32):
    values = np.random.default_rng(seed).random(shape)
    return (values * 255).round().astype(np.uint8) if dtype == np.uint8 else values.astype(dtype)


@pytest.mark.parametrize("shape", [(9, 12), (9, 12, 1), (9, 12, 3), (2, 9, 12, 3)])
def test_purify_agrees_with_scipy_and_keeps_the_shape(shape):
    image = picture(*shape, dtype=np.float64)
    sigma = np.zeros(len(shape))
    axes = (0, 1) if len(shape) < 4 else (1, 2)
    sigma[list(axes)] = 1.0
    expected = gaussian_filter(gaussian_filter(image, sigma, mode="reflect"), sigma, mode="reflect")
    purified = purify(SMOOTH, image)
    assert purified.shape == shape
    assert purified.dtype == np.float64
    np.testing.assert_allclose(purified, expected, atol=2e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64, jnp.bfloat16])
def test_purify_keeps_the_dtype_and_identity_keeps_every_value(dtype):
    image = np.arange(256, dtype=np.uint8).reshape(16, 16) if dtype == np.uint8 else picture(16, 16).astype(dtype)
    purified = purify(Identity(), image)
    assert isinstance(purified, np.ndarray)
    assert purified.dtype == dtype
    tolerance = 0 if dtype != np.float64 else 1e-7
    np.testing.assert_allclose(purified.astype(np.float64), image.astype(np.float64), atol=tolerance)


def test_purify_rounds_8_bits_to_the_nearest_level():
    image = picture(8, 8, 3, dtype=np.uint8)
    exact = purify(SMOOTH, image.astype(np.float64) / 255) * 255
    assert np.abs(purify(SMOOTH, image) - exact).max() <= 0.5 + 1e-4


def test_purify_gives_jax_for_jax_and_a_list_for_a_list():
    assert isinstance(purify(SMOOTH, jnp.zeros((4, 4, 3))), jax.Array)
    images = [picture(5, 7, 3), jnp.asarray(picture(4, 4)), picture(5, 7, 3, seed=1), picture(5, 7, 3, dtype=np.uint8)]
    together = purify(SMOOTH, images)
    assert [type(image) for image in together] == [np.ndarray, type(images[1]), np.ndarray, np.ndarray]
    for image, purified in zip(images, together, strict=True):
        assert (purified.shape, purified.dtype) == (image.shape, image.dtype)
        np.testing.assert_allclose(np.asarray(purified), np.asarray(purify(SMOOTH, image)), atol=1e-6)


@pytest.mark.parametrize("channels", [2, 4])
def test_purify_keeps_opacity_and_purifies_colour(channels):
    image = picture(6, 8, channels, dtype=np.uint8)
    image[..., -1] |= 16  # of what is fainter, colour counts less
    purified = purify(SMOOTH, image)
    np.testing.assert_array_equal(purified[..., -1], image[..., -1])
    np.testing.assert_array_equal(purified[..., :-1], purify(SMOOTH, image[..., :-1]))


def test_opacity_follows_a_new_size():
    image = picture(6, 8, 4, dtype=np.uint8)
    image[..., 3] = 200
    purified = purify(Double(), image)
    assert purified.shape == (12, 16, 4)
    assert (purified[..., 3] == 200).all()


def test_batch_size_changes_nothing_and_keys_belong_to_images():
    images, key = picture(5, 4, 4, 3), jax.random.key(3)
    whole = purify(AddNoise(), images, key=key)
    np.testing.assert_array_equal(whole, purify(AddNoise(), images, key=key, batch_size=2))
    np.testing.assert_array_equal(whole, np.stack(purify(AddNoise(), list(images), key=key)))
    np.testing.assert_array_equal(whole[3], purify(AddNoise(), images[3:4], key=jax.random.fold_in(key, 3)[None])[0])


def test_a_purifier_that_couples_images_sees_all_of_them():
    images = picture(5, 4, 4, 3)
    np.testing.assert_allclose(purify(Centre(), images, batch_size=2)[1], images.mean(axis=0), atol=1e-6)


def test_few_sizes_are_compiled():
    before = apply._call._cache_size()
    for sigma in (0.7, 1.3):
        for count in (5, 6):
            purify(GaussianSmoothing(sigma=sigma), picture(count, 11, 5, 3), batch_size=4)
    for count in (3, 7, 11):
        purify(GaussianSmoothing(), picture(count, 11, 5, 3), batch_size=4)
    assert apply._call._cache_size() - before <= 2
    assert {bucket(count, 64) for count in range(1, 65)} == {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64}
    assert all(bucket(count, 64) >= count for count in range(1, 65))


def test_large_images_go_one_by_one(monkeypatch):
    monkeypatch.setattr(apply, "PIXELS", 30)
    seen = []
    purify(lambda images: seen.append(images.shape) or images, [picture(4, 5, 3)] * 3)
    assert seen[-1] == (1, 4, 5, 3)
    assert not any(shape[0] == 3 for shape in seen)


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        ([], ValueError, "empty list"),
        (np.zeros((0, 4, 4, 3), np.float32), ValueError, "no pixels"),
        (np.zeros((4, 0, 3), np.uint8), ValueError, "no pixels"),
        (np.zeros(4, np.uint8), ValueError, "shape"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, r"transpose\(1, 2, 0\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), ValueError, r"transpose\(0, 2, 3, 1\)"),
        (np.zeros((10, 8, 8), np.uint8), ValueError, "grey"),
        ([np.zeros((1, 4, 4, 3), np.uint8)], ValueError, r"images\[0\]"),
        (np.full((4, 4, 3), np.nan), ValueError, "NaN"),
        (np.full((4, 4, 3), 255.0), ValueError, "divide by 255"),
        (np.full((4, 4, 3), -0.5), ValueError, "normalised"),
        (np.zeros((4, 4, 3), np.int64), TypeError, "int64"),
        (np.zeros((4, 4, 3), bool), TypeError, "bool"),
        ("photo.png", TypeError, "str"),
    ],
)
def test_bad_images_are_refused_in_one_sentence(images, error, words):
    with pytest.raises(error, match=words) as caught:
        purify(SMOOTH, images)
    assert "\n" not in str(caught.value)


def test_a_random_purifier_needs_a_typed_key():
    with pytest.raises(ValueError, match="pass key="):
        purify(AddNoise(), picture(4, 4, 3))
    with pytest.raises(TypeError, match="raw uint32"):
        purify(AddNoise(), picture(4, 4, 3), key=jax.random.PRNGKey(0))


def test_a_purifier_that_returns_nan_is_named():
    with pytest.raises(ValueError, match="NaN or infinity for finite"):
        purify(lambda images: images / jnp.zeros_like(images), picture(4, 4, 3))


def test_purify_under_jit_says_what_to_call():
    with pytest.raises(TypeError, match="call the purifier itself"):
        jax.jit(lambda x: purify(SMOOTH, x))(jnp.zeros((4, 4, 3)))
