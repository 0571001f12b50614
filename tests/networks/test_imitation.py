import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxpurify.networks.imitation import ImitationNetwork


def test_an_untrained_network_is_the_identity():
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 5, 8, 3)), jnp.float32)
    np.testing.assert_array_equal(ImitationNetwork(width=2, blocks=1, rngs=nnx.Rngs(0))(images), images)


@pytest.mark.parametrize(("blocks", "across"), [(1, 9), (3, 25)])
def test_a_pixel_depends_on_the_receptive_field_and_no_further(filled, blocks, across):
    network = filled(lambda: ImitationNetwork(width=3, blocks=blocks, rngs=nnx.Rngs(0)))
    assert network.receptive_field == across
    graph, state = nnx.split(network)
    images, middle = jnp.full((1, 31, 31, 3), 0.4, jnp.float32), 15
    pixel = jax.jit(jax.grad(lambda images: nnx.merge(graph, state)(images)[0, middle, middle].sum()))
    rows, columns = np.nonzero(np.abs(pixel(images)[0]).sum(axis=2))
    reach = across // 2
    assert (rows.min(), rows.max()) == (columns.min(), columns.max()) == (middle - reach, middle + reach)


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="blocks must be a whole number of at least 1, got 0"):
        ImitationNetwork(blocks=0, rngs=nnx.Rngs(0))
