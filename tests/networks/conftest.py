from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx


@pytest.fixture(scope="session")
def filled() -> Callable[..., nnx.Module]:
    """Construct a network with random weights, running averages included, without compiling an initialiser a shape."""

    def fill(construct: Callable[[], nnx.Module], *, seed: int = 0) -> nnx.Module:
        module, random = nnx.eval_shape(construct), np.random.default_rng(seed)
        for path, variable in nnx.to_flat_state(nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat))):
            if path[-1] == "kernel":
                values = random.normal(size=variable.shape) * np.sqrt(2 / np.prod(variable.shape[:-1]))
            elif path[-1] in ("scale", "var"):
                values = random.uniform(0.5, 1.5, variable.shape)
            else:
                values = random.normal(size=variable.shape) / 4
            variable.set_value(jnp.asarray(values, jnp.float32))
        return module

    return fill


@pytest.fixture(scope="session")
def jitted() -> Callable[..., jax.Array]:
    """Call a module in one compilation."""

    def call(module: nnx.Module, *arguments: jax.Array) -> jax.Array:
        graph, state = nnx.split(module)
        return jax.jit(lambda state, *arguments: nnx.merge(graph, state)(*arguments))(state, *arguments)

    return call
