"""The median filter as a purifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify.gradients import has_surrogate
from jaxpurify.purifiers.median import Median
from jaxpurify.testing import check_purifier
from jaxpurify.transforms.median import median_filter


def test_it_is_the_transform():
    images = jnp.asarray(np.random.default_rng(0).random((2, 9, 12, 3), np.float32))
    np.testing.assert_array_equal(Median(size=5)(images), median_filter(images, size=5))


def test_the_size_is_no_leaf():
    assert jax.tree.leaves(Median(size=5)) == []


def test_it_has_no_surrogate_because_its_gradient_is_of_use():
    images = jnp.asarray(np.random.default_rng(0).random((1, 16, 16, 3), np.float32))
    assert not has_surrogate(Median())
    gradient = jax.grad(lambda images: jnp.sum(Median()(images)))(images)
    np.testing.assert_allclose(jnp.sum(gradient), images.size, rtol=1e-5)


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize(("shape", "channels"), [((1, 7), 1), pytest.param((32, 32), 3, marks=pytest.mark.slow)])
def test_variants_keep_the_contract(size, shape, channels):
    check_purifier(Median(size=size), size=shape, channels=channels)


def test_the_contract_is_kept_in_float64(x64):
    check_purifier(Median(), size=(8, 9))


def test_a_person_cannot_construct_nonsense():
    with pytest.raises(ValueError, match="size must be an integer from 1 to 7"):
        Median(size=0)
