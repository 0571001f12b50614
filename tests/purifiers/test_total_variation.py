"""Total variation as a purifier: over all of an image, and from pixels drawn at random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify.models import sweep
from jaxpurify.purifiers.total_variation import RandomPixelTotalVariation, TotalVariation
from jaxpurify.testing import check_purifier
from jaxpurify.transforms.total_variation import total_variation_denoise, total_variation_reconstruct


def noise(shape):
    return jnp.asarray(np.random.default_rng(0).random(shape, np.float32))


def test_it_is_the_transform():
    images = noise((2, 9, 12, 3))
    expected = total_variation_denoise(images, weight=0.2, iterations=7)
    np.testing.assert_allclose(TotalVariation(weight=0.2, iterations=7)(images), expected, atol=1e-6)


def test_everything_kept_is_the_reconstruction_from_all_values():
    images = noise((2, 9, 12, 3))
    expected = total_variation_reconstruct(images, jnp.ones_like(images), weight=0.2, iterations=5)
    found = RandomPixelTotalVariation(weight=0.2, keep=1.0, iterations=5)(images, jax.random.key(0))
    np.testing.assert_allclose(found, expected.clip(0, 1), atol=1e-6)


def test_numbers_are_leaves_and_passes_are_not():
    assert jax.tree.leaves(TotalVariation(weight=1, iterations=3)) == [1.0]
    assert jax.tree.leaves(RandomPixelTotalVariation(weight=0.5, keep=0.25)) == [0.5, 0.25]


def test_sweeping_the_weight_equals_one_purifier_after_another():
    images, weights = noise((1, 8, 8, 1)), jnp.linspace(0.0, 0.3, 4)
    swept = jax.vmap(lambda purifier: purifier(images))(sweep(TotalVariation(iterations=5), weight=weights))
    for row, weight in zip(swept, weights, strict=True):
        np.testing.assert_allclose(row, TotalVariation(weight=float(weight), iterations=5)(images), atol=1e-6)


def test_as_many_values_have_influence_as_are_kept():
    images = noise((2, 24, 24, 3))
    purifier = RandomPixelTotalVariation(keep=0.3, weight=0.1, iterations=3)
    gradient = jax.grad(lambda images: jnp.sum(purifier(images, jax.random.key(1)) * noise(images.shape)))(images)
    used = np.asarray(gradient) != 0
    assert abs(used.mean() - 0.3) < 0.03
    assert np.any(used[..., 0] != used[..., 1])
    assert np.any(used[0] != used[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "purifier",
    [
        TotalVariation(weight=0.0, iterations=1),
        TotalVariation(weight=1.0, iterations=7),
        RandomPixelTotalVariation(keep=0.05, weight=0.5, iterations=5),
        RandomPixelTotalVariation(keep=0.9, iterations=3),
    ],
)
@pytest.mark.parametrize(("size", "channels"), [((32, 32), 3), ((1, 7), 1)])
def test_variants_keep_the_contract(purifier, size, channels):
    check_purifier(purifier, size=size, channels=channels)


@pytest.mark.slow
@pytest.mark.parametrize("purifier", [TotalVariation(iterations=5), RandomPixelTotalVariation(iterations=5)])
def test_the_contract_is_kept_in_float64(purifier, x64):
    check_purifier(purifier, size=(8, 9))


@pytest.mark.parametrize(
    ("cls", "field"),
    [
        (TotalVariation, {"weight": -0.1}),
        (TotalVariation, {"iterations": 0}),
        (RandomPixelTotalVariation, {"weight": float("nan")}),
        (RandomPixelTotalVariation, {"iterations": 0}),
        (RandomPixelTotalVariation, {"keep": 0.0}),
        (RandomPixelTotalVariation, {"keep": 1.5}),
    ],
)
def test_a_person_cannot_construct_nonsense(cls, field):
    with pytest.raises(ValueError, match=next(iter(field))):
        cls(**field)
