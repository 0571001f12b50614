import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jaxpurify.attacks.norms import BALLS, ball, check_epsilon, length

projections = {name: jax.jit(one.project) for name, one in BALLS.items()}
directions = {name: jax.jit(one.direction) for name, one in BALLS.items()}
perturbations = arrays(np.float32, (12,), elements=st.floats(-4, 4, width=32, allow_subnormal=False))
sizes = st.floats(0, 3, width=32, allow_subnormal=False)


@settings(max_examples=60, deadline=None)
@given(perturbations, sizes)
def test_l2_projection_is_the_nearest_point_of_the_ball(perturbation, epsilon):
    projected = np.asarray(projections["l2"](perturbation, np.float32(epsilon)), np.float64)
    size = np.linalg.norm(perturbation.astype(np.float64))
    expected = perturbation * min(1.0, epsilon / size) if size > 0 else np.zeros(12)
    np.testing.assert_allclose(projected, expected, rtol=2e-6, atol=1e-30)
    assert np.linalg.norm(projected) <= epsilon * (1 + 1e-6)


@settings(max_examples=60, deadline=None)
@given(perturbations, sizes)
def test_l2_projection_leaves_what_is_inside_and_what_it_has_projected(perturbation, epsilon):
    once = np.asarray(projections["l2"](perturbation, np.float32(epsilon)))
    np.testing.assert_allclose(projections["l2"](once, np.float32(epsilon)), once, rtol=1e-6, atol=0)
    if np.linalg.norm(perturbation.astype(np.float64)) < epsilon * (1 - 1e-6):
        np.testing.assert_array_equal(once, perturbation)


@settings(max_examples=30, deadline=None)
@given(perturbations, sizes)
def test_linf_projection_is_clipping(perturbation, epsilon):
    projected = projections["linf"](perturbation, np.float32(epsilon))
    np.testing.assert_array_equal(projected, np.clip(perturbation, -np.float32(epsilon), np.float32(epsilon)))


@pytest.mark.parametrize("scale", [1e-35, 1e-30, 1.0, 1e30])
def test_l2_direction_has_length_one_whatever_the_size_of_the_gradient(scale):
    gradient = np.random.default_rng(0).normal(size=12)
    direction = directions["l2"](np.float32(gradient * scale))
    np.testing.assert_allclose(direction, gradient / np.linalg.norm(gradient), rtol=1e-5)


@pytest.mark.parametrize("norm", BALLS)
def test_direction_of_a_zero_gradient_is_zero(norm):
    np.testing.assert_array_equal(directions[norm](np.zeros(12, np.float32)), np.zeros(12))


def test_length_has_gradient_zero_at_zero():
    np.testing.assert_array_equal(jax.grad(length)(jnp.zeros(3)), np.zeros(3))


def test_samples_are_uniform_in_the_ball():
    keys = jax.random.split(jax.random.key(0), 4000)
    draw = {norm: jax.jit(jax.vmap(lambda key, n=norm: ball(n).sample(key, (3,), jnp.float32, 0.5))) for norm in BALLS}
    flat = np.asarray(draw["linf"](keys))
    assert np.abs(flat).max() <= 0.5
    np.testing.assert_allclose([flat.mean(), flat.std()], [0, 0.5 / np.sqrt(3)], atol=0.01)
    round_ = np.asarray(draw["l2"](keys))
    radii = np.linalg.norm(round_, axis=1)
    assert radii.max() <= 0.5 * (1 + 1e-6)
    # The share of the volume within the radius is uniform, and the centre is the origin.
    np.testing.assert_allclose(np.quantile((radii / 0.5) ** 3, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.03)
    np.testing.assert_allclose(round_.mean(axis=0), 0, atol=0.02)


@pytest.mark.parametrize(("norm", "order"), [("linf", np.inf), ("l2", 2)])
def test_corners_have_the_largest_size_allowed(norm, order):
    keys = jax.random.split(jax.random.key(0), 50)
    corners = np.asarray(jax.vmap(lambda key: ball(norm).corner(key, (12,), jnp.float32, jnp.float32(0.5)))(keys))
    np.testing.assert_allclose(np.linalg.norm(corners, ord=order, axis=1), 0.5, rtol=1e-6)
    if norm == "linf":
        np.testing.assert_array_equal(np.abs(corners), 0.5)


@pytest.mark.parametrize(
    ("norm", "epsilon", "message"),
    [
        ("linf", -0.1, "at least 0, got -0.1"),
        ("linf", float("nan"), "finite"),
        ("l2", float("inf"), "finite"),
        ("linf", 8, "got 8: in 0–255 units"),
        ("linf", np.float32(8), "0–255"),
        ("l2", 2000.0, "0–255"),
        ("l1", 0.1, r"one of \['l2', 'linf'\], got 'l1'"),
    ],
)
def test_sizes_that_cannot_be_meant_are_refused(norm, epsilon, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_epsilon(norm, epsilon)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("epsilon", [0, 0.0, 1, np.float32(0.1), 8 / 255])
def test_sizes_that_can_be_meant_pass(epsilon):
    check_epsilon("linf", epsilon)
    check_epsilon("l2", epsilon)
