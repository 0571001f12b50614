"""Non-local means as a purifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify.models import sweep
from jaxpurify.purifiers.non_local_means import NonLocalMeans
from jaxpurify.testing import check_purifier
from jaxpurify.transforms.non_local_means import non_local_means


def noise(shape):
    return jnp.asarray(np.random.default_rng(0).uniform(0.4, 0.5, shape), jnp.float32)


def test_it_is_the_transform():
    images, options = noise((2, 9, 12, 3)), {"h": 0.04, "sigma": 0.01, "patch_size": 5, "patch_distance": 2}
    np.testing.assert_allclose(NonLocalMeans(**options)(images), non_local_means(images, **options), atol=1e-6)


def test_h_and_sigma_are_its_leaves():
    assert jax.tree.leaves(NonLocalMeans(h=1, sigma=0.5)) == [1.0, 0.5]


def test_sweeping_h_equals_one_purifier_after_another():
    images, values = noise((1, 8, 8, 1)), jnp.linspace(0.02, 0.1, 3)
    swept = jax.vmap(lambda purifier: purifier(images))(sweep(NonLocalMeans(patch_distance=2), h=values))
    for row, h in zip(swept, values, strict=True):
        np.testing.assert_allclose(row, NonLocalMeans(h=float(h), patch_distance=2)(images), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("purifier", [NonLocalMeans(), NonLocalMeans(sigma=0.03, patch_size=5, patch_distance=2)])
@pytest.mark.parametrize(("size", "channels"), [((32, 32), 3), ((1, 7), 1)])
def test_variants_keep_the_contract(purifier, size, channels):
    check_purifier(purifier, size=size, channels=channels)


@pytest.mark.slow
def test_the_contract_is_kept_in_float64(x64):
    check_purifier(NonLocalMeans(patch_distance=2), size=(8, 9))


@pytest.mark.parametrize("field", [{"h": 0.0}, {"sigma": -1.0}, {"patch_size": 4}, {"patch_distance": 0}])
def test_a_person_cannot_construct_nonsense(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        NonLocalMeans(**field)
