"""Plain resizing against Pillow and JAX's own, there and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxpurify.models import Defended, classifier
from jaxpurify.purifiers.resizing import Resizing
from jaxpurify.testing import check_gradient, check_purifier

# Far enough from black and white that bicubic and Lanczos overshoot nowhere.
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(0.4, 0.6, (2, 13, 18, 3)), jnp.float32)
METHODS = {"bicubic": Image.Resampling.BICUBIC, "lanczos3": Image.Resampling.LANCZOS}


def pillow(image, size, method):
    channels = [Image.fromarray(np.asarray(image[..., c])).resize(size[::-1], METHODS[method]) for c in range(3)]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("scale", "size"), [(2.0, (26, 36)), (0.5, (6, 9)), (1.5, (20, 27))])
def test_there_and_back_is_pillow_there_and_back(scale, size, method):
    there = Resizing(scale=scale, method=method, back=False)(IMAGES)
    both = Resizing(scale=scale, method=method)(IMAGES)
    for image, once, twice in zip(IMAGES, there, both, strict=True):
        expected = pillow(image, size, method)
        np.testing.assert_allclose(once, expected, atol=1e-6)
        np.testing.assert_allclose(twice, pillow(expected, (13, 18), method), atol=1e-6)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "lanczos5"])
def test_there_and_back_is_jax_there_and_back(method):
    once = jax.image.resize(IMAGES, (2, 26, 36, 3), method=method, precision="highest")
    twice = jax.image.resize(once, (2, 13, 18, 3), method=method, precision="highest")
    np.testing.assert_allclose(Resizing(method=method, back=False)(IMAGES), once, atol=2e-6)
    np.testing.assert_allclose(Resizing(method=method)(IMAGES), twice, atol=2e-6)


def test_a_scale_of_one_changes_nothing():
    for back in (True, False):
        np.testing.assert_allclose(Resizing(scale=1.0, back=back)(IMAGES), IMAGES, atol=1e-7)
    assert not Resizing(scale=1.0, back=False).changes_size


def test_no_image_vanishes():
    pixel = Resizing(scale=0.01, back=False)(IMAGES)
    assert pixel.shape == (2, 1, 1, 3)
    np.testing.assert_allclose(Resizing(scale=0.01)(IMAGES), np.broadcast_to(pixel, IMAGES.shape), atol=1e-6)


def test_a_classifier_of_one_size_is_refused_without_the_way_back():
    fixed = classifier(lambda images: images.mean(axis=(1, 2)), image_shape=(13, 18, 3))
    Defended(fixed, Resizing())
    with pytest.raises(ValueError, match=r"Resizing turns images of \(13, 18, 3\) into \(26, 36, 3\)"):
        Defended(fixed, Resizing(back=False))


@pytest.mark.parametrize("back", [True, False])
def test_the_exact_gradient_is_there(back, x64):
    check_gradient(Resizing(scale=0.6, back=back), jnp.asarray(IMAGES, jnp.float64))


def test_it_keeps_the_contract_without_the_way_back():
    check_purifier(Resizing(scale=0.5, method="lanczos3", back=False), size=(7, 10), channels=1)


@pytest.mark.slow
def test_it_keeps_the_contract():
    check_purifier(Resizing())
    check_purifier(Resizing(scale=0.5), size=(1, 7))
    check_purifier(Resizing(method="bilinear"), size=(32, 32))


def test_it_keeps_the_contract_in_float64(x64):
    check_purifier(Resizing(), size=(8, 9))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"scale": 0.0}, "scale must be a finite number above 0, got 0.0"),
        ({"scale": float("inf")}, "scale must be a finite number above 0, got inf"),
        ({"method": "cubic"}, "method must be one of nearest, bilinear, bicubic"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(field, message):
    with pytest.raises(ValueError, match=message):
        Resizing(**field)
