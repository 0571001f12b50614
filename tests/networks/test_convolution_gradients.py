import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify.networks import convolution_gradients
from jaxpurify.networks.convolution_gradients import Geometry

pytestmark = pytest.mark.usefixtures("x64")
GEOMETRY = Geometry((2, 2), ((1, 1), (1, 1)), (1, 1), None)


def images_and_cotangent(batch):
    random = np.random.default_rng(0)
    return jnp.asarray(random.normal(size=(batch, 7, 6, 3))), jnp.asarray(random.normal(size=(batch, 4, 3, 4)))


def gradient_by_jax(images, cotangent):
    def total(kernel):
        return jnp.sum(convolution_gradients.plain(GEOMETRY, images, kernel) * cotangent)

    return jax.grad(total)(jnp.zeros((3, 3, 3, 4)))


@pytest.mark.parametrize("batch", [1, 5, 6])
def test_kernel_gradient_is_the_sum_over_blocks_of_any_batch(monkeypatch, batch):
    images, cotangent = images_and_cotangent(batch)
    monkeypatch.setattr(convolution_gradients, "BLOCK", 2 * 4 * 3 * 4)
    ours = jax.jit(lambda *arrays: convolution_gradients.kernel_gradient(GEOMETRY, *arrays, (3, 3)))(cotangent, images)
    np.testing.assert_allclose(ours, gradient_by_jax(images, cotangent), rtol=1e-12, atol=1e-12)


def test_kernel_gradient_of_accelerators_is_that_of_the_cpu():
    images, cotangent = images_and_cotangent(3)
    on_accelerators = convolution_gradients._kernel_gradient_by_jax(GEOMETRY, (3, 3), images, cotangent)
    on_the_cpu = convolution_gradients._kernel_gradient_by_blocks(GEOMETRY, (3, 3), images, cotangent)
    np.testing.assert_allclose(on_accelerators, on_the_cpu, rtol=1e-12, atol=1e-12)
