import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify.gradients import substitute
from jaxpurify.purifiers import BitDepth, Identity

IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 9, 7, 3)) / 255, jnp.float32)


@pytest.mark.parametrize("bits", range(1, 9))
def test_values_go_to_the_nearest_of_two_to_the_bits_levels(bits):
    levels = np.arange(2**bits) / (2**bits - 1)
    nearest = levels[np.abs(np.asarray(IMAGES, np.float64)[..., None] - levels).argmin(axis=-1)]
    np.testing.assert_allclose(BitDepth(bits=bits)(IMAGES), nearest, atol=1e-6)


def test_rounding_twice_is_rounding_once():
    once = BitDepth(bits=3)(IMAGES)
    np.testing.assert_array_equal(BitDepth(bits=3)(once), once)


def test_eight_bits_keep_a_photograph():
    np.testing.assert_allclose(BitDepth(bits=8)(IMAGES), IMAGES, atol=1e-7)


def test_the_exact_gradient_is_zero_and_the_surrogates_is_the_identity():
    def total(images, change):
        return (change(BitDepth())(images) * weights).sum()

    weights = jnp.asarray(np.random.default_rng(1).normal(size=IMAGES.shape), jnp.float32)
    np.testing.assert_array_equal(jax.grad(total)(IMAGES, lambda model: model), np.zeros(IMAGES.shape))
    np.testing.assert_array_equal(jax.grad(total)(IMAGES, substitute), weights)
    assert isinstance(BitDepth().surrogate(), Identity)


def test_bits_can_be_traced():
    np.testing.assert_array_equal(jax.jit(lambda bits: BitDepth(bits=bits)(IMAGES))(2.0), BitDepth(bits=2)(IMAGES))


@pytest.mark.parametrize("bits", [0, 0.5, 9, -1, float("nan")])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(ValueError, match=f"bits must be from 1 to 8, got {bits}"):
        BitDepth(bits=bits)
    with pytest.raises(ValueError, match="bits must be from 1 to 8"):
        BitDepth(bits=np.float32(bits))
