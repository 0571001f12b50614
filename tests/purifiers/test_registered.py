"""Every registered purifier keeps the contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify.models import attribute
from jaxpurify.purifiers import registry
from jaxpurify.testing import check_purifier

NAMES = sorted(registry.names())


@pytest.mark.parametrize("name", NAMES)
def test_a_registered_purifier_keeps_the_contract(name):
    check_purifier(registry.make(name))


@jax.jit
def value_and_pull(purifier, images, keys):
    outputs, pull = jax.vjp(lambda x: purifier(x, keys), images)
    return outputs, pull(jnp.ones_like(outputs))[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_registered_purifier_takes_images_of_one_pixel_in_height(name):
    purifier = registry.make(name)
    noise = jax.random.uniform(jax.random.key(0), (1, 1, 7, 3))
    images = jnp.concatenate([jnp.zeros((1, 1, 7, 3)), jnp.ones((1, 1, 7, 3)), jnp.full((1, 1, 7, 3), 0.3), noise])
    keys = jax.random.split(jax.random.key(1), 4) if attribute(purifier, "random") else None
    outputs, gradient = value_and_pull(purifier, images, keys)
    assert outputs.shape == images.shape or attribute(purifier, "changes_size")
    assert np.isfinite(outputs).all()
    assert np.isfinite(gradient).all()
    assert float(outputs.min()) >= 0
    assert float(outputs.max()) <= 1
