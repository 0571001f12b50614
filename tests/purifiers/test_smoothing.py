"""Gaussian smoothing as a purifier: its numbers are leaves, its output is an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify.models import sweep
from jaxpurify.purifiers.smoothing import GaussianSmoothing
from jaxpurify.transforms.gaussian import gaussian_smooth

purify = jax.jit(lambda purifier, images: purifier(images))


def noise(shape):
    return jnp.asarray(np.random.default_rng(0).random(shape, np.float32))


def test_it_is_the_transform():
    images = noise((2, 9, 12, 3))
    purifier = GaussianSmoothing(sigma=0.8, iterations=3, boundary="mirror", truncate=3.0)
    expected = gaussian_smooth(images, sigma=0.8, iterations=3, boundary="mirror", truncate=3.0)
    np.testing.assert_allclose(purifier(images), expected, atol=1e-6)


def test_sigma_and_iterations_are_its_leaves():
    leaves = jax.tree.leaves(GaussianSmoothing(sigma=0.5, iterations=2.0))
    assert leaves == [0.5, 2.0]


def test_sweeping_sigma_equals_one_purifier_after_another():
    images, sigmas = noise((1, 8, 8, 1)), jnp.linspace(0.25, 2.0, 8)
    swept = jax.vmap(lambda purifier: purifier(images))(sweep(GaussianSmoothing(iterations=2.0), sigma=sigmas))
    for row, sigma in zip(swept, sigmas, strict=True):
        np.testing.assert_allclose(row, GaussianSmoothing(sigma=float(sigma), iterations=2.0)(images), atol=1e-6)


def test_five_purifiers_compile_once():
    images = noise((1, 8, 8, 1))
    before = purify._cache_size()
    for number in range(5):
        purify(GaussianSmoothing(sigma=0.5 + number, iterations=1.0 + number), images)
    assert purify._cache_size() == before + 1


def test_output_stays_in_range_on_black_and_white():
    images = jnp.asarray(np.random.default_rng(0).integers(0, 2, (4, 21, 21, 3)), jnp.float32)
    for purified in (
        purify(GaussianSmoothing(sigma=0.4, iterations=0.5), images),
        purify(GaussianSmoothing(), jnp.ones_like(images)),
    ):
        assert float(purified.min()) >= 0
        assert float(purified.max()) <= 1


def test_sigma_can_be_learned():
    images = noise((1, 12, 12, 1))
    target = GaussianSmoothing(sigma=1.2)(images)

    @jax.jit
    def loss(purifier):
        return jnp.sum((purifier(images) - target) ** 2)

    slopes = jax.grad(loss)(GaussianSmoothing(sigma=0.9))
    assert isinstance(slopes, GaussianSmoothing)
    assert slopes.sigma < 0
    assert jax.grad(loss)(GaussianSmoothing(sigma=1.5)).sigma > 0


@pytest.mark.parametrize(
    "field", [{"sigma": -1.0}, {"iterations": float("inf")}, {"boundary": "zero"}, {"truncate": 0.0}]
)
def test_a_person_cannot_construct_nonsense(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        GaussianSmoothing(**field)
