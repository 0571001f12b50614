"""Recipes: step sizes, clipping, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify.training import Recipe


@pytest.fixture(scope="module", autouse=True)
def ordinary_promotion():
    """Optax's own steps do not pass the strict settings."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def curve(**fields):
    recipe = Recipe(learning_rate=0.1, warmup=0.2, final=0.05, **fields)
    sizes = recipe.step_sizes(50)
    return np.array([float(sizes(step)) for step in range(51)])


def test_the_step_size_rises_linearly_to_the_largest():
    for schedule in ("cosine", "linear", "constant"):
        sizes = curve(schedule=schedule)
        np.testing.assert_allclose(sizes[:11], 0.1 * np.arange(1, 12) / 11, rtol=1e-5)
        assert sizes.max() == pytest.approx(0.1)


def test_the_step_size_then_falls_as_its_schedule_says():
    share = np.arange(41) / 40
    np.testing.assert_allclose(curve(schedule="constant")[10:], 0.1, rtol=1e-6)
    np.testing.assert_allclose(curve(schedule="linear")[10:], 0.1 * (1 - 0.95 * share), rtol=1e-5)
    expected = 0.1 * (0.05 + 0.95 * (1 + np.cos(np.pi * share)) / 2)
    np.testing.assert_allclose(curve(schedule="cosine")[10:], expected, rtol=1e-5)


def test_a_single_step_has_a_step_size():
    assert 0 < float(Recipe().step_sizes(1)(0)) <= Recipe().learning_rate


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_gradients_are_clipped_by_their_global_norm(clip):
    """AdamW's first moment after one step is a tenth of the gradient that it saw."""
    optimiser = Recipe(clip=clip).optimiser(10)
    weights = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    gradients = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}
    _, state = optimiser.update(gradients, optimiser.init(weights), weights)
    moments = jax.tree.leaves(next(leaf for leaf in _moments(state)))
    norm = np.sqrt(sum(float(jnp.sum(jnp.square(leaf))) for leaf in moments)) * 10
    assert norm == pytest.approx(clip or 5.0, rel=1e-4)


def _moments(state):
    if hasattr(state, "mu"):
        yield state.mu
    elif isinstance(state, tuple):
        for part in state:
            yield from _moments(part)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"keep": 0}, "keep must be an integer of at least 1, got 0"),
        ({"save_every": 2.5}, "save_every must be an integer of at least 1, got 2.5"),
        ({"average": 1.0}, "average must be a share of at least 0 and below 1, got 1.0"),
        ({"held_out": -0.1}, "held_out must be a share"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number above 0, got nan"),
        ({"clip": -1.0}, "clip must be a finite number of at least 0, got -1.0"),
        ({"weight_decay": float("inf")}, "weight_decay must be a finite number of at least 0, got inf"),
        ({"schedule": "step"}, "schedule must be one of cosine, linear, constant, got 'step'"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16, got 'float16'"),
        ({"batch_size": 6, "accumulate": 4}, "accumulate must divide the batch of 6, got 4"),
    ],
)
def test_numbers_out_of_their_domain_are_refused(fields, sentence):
    with pytest.raises(Exception, match=r".") as error:
        Recipe(**fields)
    # The types themselves are checked at every call while testing.
    assert sentence in str(error.value) or "TypeCheckError" in type(error.value).__name__


def test_a_step_size_may_stay_the_largest():
    assert Recipe(final=1.0).final == 1
