"""Every registered purifier keeps the contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import networks
from jaxpurify.models import attribute
from jaxpurify.networks.registry import architecture
from jaxpurify.purifiers import registry
from jaxpurify.testing import check_purifier

NAMES = sorted(registry.names())
LEARNED = {"blind-spot": "blind-spot", "ncis": "blind-spot", "super-resolution": "sesr-x2"}
# Many compilations; a pass of NCIS is smoothing and its network, which both stand in the list by themselves.
SLOW = {"ncis", "super-resolution"}
CHECKED = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NAMES]


@pytest.fixture
def stand_ins(monkeypatch, doubling, blind_spot):
    """Put tiny networks with random weights in the place of the shipped ones, which take long to compile."""
    tiny = {"sesr-x2": doubling, "blind-spot": blind_spot}
    monkeypatch.setattr(networks, "load_network", lambda name, weights=None: tiny[name])


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("name", CHECKED)
def test_a_registered_purifier_keeps_the_contract(name):
    check_purifier(registry.make(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_purifier_keeps_the_contract_with_its_shipped_weights(name):
    if architecture(LEARNED[name]).shipped is None:
        pytest.skip(f"the weights of {LEARNED[name]} are not shipped")
    check_purifier(registry.make(name))


@jax.jit
def value_and_pull(purifier, images, keys):
    outputs, pull = jax.vjp(lambda x: purifier(x, keys), images)
    return outputs, pull(jnp.ones_like(outputs))[0]


@pytest.mark.usefixtures("stand_ins")
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
