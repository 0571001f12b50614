"""Tiny networks with random weights, whose outputs stay inside of [0, 1]."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxpurify.classifiers import of_nnx
from jaxpurify.networks.blind_spot import BlindSpotNetwork
from jaxpurify.networks.edsr import EDSR


def _filled(construct, seed):
    """Construct a network with random weights in NumPy: an initialiser would compile a program a shape."""
    module, random = nnx.eval_shape(construct), np.random.default_rng(seed)
    for path, variable in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        spread = np.sqrt(2 / np.prod(variable.shape[:-1])) if path[-1] == "kernel" else 0.1
        variable.set_value(jnp.asarray(spread * random.normal(size=variable.shape), jnp.float32))
    return module


def _scaled(layer, *, gain, bias):
    layer.kernel.set_value(gain * layer.kernel[...])
    layer.bias.set_value(jnp.full_like(layer.bias[...], bias))


@pytest.fixture(scope="session")
def doubling():
    """Images to images of twice the size."""
    module = _filled(lambda: EDSR(2, features=4, blocks=1, rngs=nnx.Rngs(0)), seed=0)
    _scaled(module.tail, gain=0.04, bias=0.0)
    return of_nnx(module)


@pytest.fixture(scope="session")
def blind_spot_module():
    module = _filled(lambda: BlindSpotNetwork(3, width=4, layers=1, rngs=nnx.Rngs(0)), seed=6)
    _scaled(module.output, gain=0.5, bias=0.5)
    return module


@pytest.fixture(scope="session")
def blind_spot(blind_spot_module):
    """Images to images of the same size; no pixel sees itself."""
    return of_nnx(blind_spot_module)
