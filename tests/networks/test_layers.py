import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxpurify.networks.layers import ConvNorm, PReLU, normalise, prelu


def images_of(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


def test_folding_is_batch_normalisation_in_evaluation_mode(filled):
    layer = filled(lambda: ConvNorm(3, 8, 3, strides=2, padding=1, rngs=nnx.Rngs(0)))
    layer.eval()
    images = images_of(2, 9, 8, 3)
    np.testing.assert_allclose(layer(images), layer.norm(layer.conv(images)), rtol=1e-5, atol=1e-5)


def test_training_mode_normalises_by_the_batch_and_updates_the_averages(filled):
    layer = filled(lambda: ConvNorm(3, 8, 3, padding=1, rngs=nnx.Rngs(0)))
    layer.norm.scale.set_value(jnp.ones(8))
    layer.norm.bias.set_value(jnp.zeros(8))
    before = layer.norm.mean[...]
    layer.train()
    images = images_of(4, 8, 8, 3)
    outputs, raw = layer(images), layer.conv(images)
    np.testing.assert_allclose(outputs.mean((0, 1, 2)), np.zeros(8), atol=1e-5)
    np.testing.assert_allclose(outputs.std((0, 1, 2)), np.ones(8), atol=1e-3)
    np.testing.assert_allclose(layer.norm.mean[...], 0.9 * before + 0.1 * raw.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)


def test_negative_values_have_a_slope_a_channel():
    rectifier = PReLU(3)
    rectifier.slope[...] = jnp.array([0.0, 0.5, 2.0])
    values = jnp.array([[-2.0, -2.0, -2.0], [3.0, 3.0, 3.0]]).reshape(1, 1, 2, 3)
    np.testing.assert_array_equal(rectifier(values)[0, 0], [[0, -1, -4], [3, 3, 3]])


def test_one_slope_serves_all_channels():
    values = jnp.array([-2.0, -4.0, 3.0]).reshape(1, 1, 1, 3)
    np.testing.assert_array_equal(prelu(values, jnp.array([0.5]))[0, 0, 0], [-1, -2, 3])


def test_the_derivative_of_a_rectifier_at_zero_is_its_slope():
    gradient = jax.grad(lambda values: prelu(values, jnp.array([0.25])).sum())(jnp.zeros((1, 1, 1, 3)))
    np.testing.assert_array_equal(gradient[0, 0, 0], [0.25] * 3)


def test_normalisation_is_by_colour_and_wants_colours():
    images = images_of(2, 3, 4, 3)
    normalised = normalise(images, (0.5, 0.25, 0.0), (0.5, 0.25, 0.125))
    np.testing.assert_allclose(normalised, (images - jnp.array([[[[0.5, 0.25, 0]]]])) * jnp.array([[[[2.0, 4, 8]]]]))
    with pytest.raises(ValueError, match="must have 3 channels"):
        normalise(images[..., :1], (0.5, 0.25, 0.0), (0.5, 0.25, 0.125))
