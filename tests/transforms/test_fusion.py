"""Steps that are kept apart are the same steps."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify.transforms.fusion import apart


def shifted(x, *, by):
    return x[by:] * x[:-by]


def twice(x):
    return shifted(shifted(x, by=1), by=2)


kept = jax.jit(lambda x: apart(shifted)(apart(shifted)(x, by=1), by=2))
VALUES = jnp.arange(9.0)


def test_values_are_the_same():
    np.testing.assert_array_equal(kept(VALUES), twice(VALUES))
    np.testing.assert_array_equal(jax.vmap(kept)(jnp.stack([VALUES, 2 * VALUES]))[0], twice(VALUES))


def test_gradients_are_the_same():
    slopes = [jax.grad(lambda x, function=function: jnp.sum(function(x)))(VALUES) for function in (kept, twice)]
    np.testing.assert_allclose(*slopes)


def test_the_steps_are_programs_of_their_own_on_the_cpu():
    calls = [jax.jit(function).lower(VALUES).compile().as_text().count(" call(") for function in (kept, twice)]
    assert calls == [2, 0] or jax.default_backend() != "cpu"
