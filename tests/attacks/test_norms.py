import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jaxpurify.attacks.checks import check_epsilon
from jaxpurify.attacks.norms import BALLS, ball, length

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


def sorted_projection(perturbation, epsilon):
    """Project onto the l1 ball by sorting, in float64 (Duchi et al. 2008)."""
    values = perturbation.astype(np.float64)
    if np.abs(values).sum() <= epsilon:
        return values
    falling = np.sort(np.abs(values))[::-1]
    thresholds = (np.cumsum(falling) - epsilon) / np.arange(1, len(values) + 1)
    reached = thresholds[falling > thresholds]
    threshold = reached[-1] if len(reached) else np.inf  # sizes that vanish beside the values
    return np.sign(values) * np.maximum(np.abs(values) - threshold, 0)


@settings(max_examples=60, deadline=None)
@given(perturbations, sizes)
def test_l1_projection_is_the_nearest_point_of_the_ball(perturbation, epsilon):
    projected = np.asarray(projections["l1"](perturbation, np.float32(epsilon)), np.float64)
    np.testing.assert_allclose(projected, sorted_projection(perturbation, float(np.float32(epsilon))), atol=5e-6)
    assert np.abs(projected).sum() <= epsilon + 1e-6
    if np.abs(perturbation.astype(np.float64)).sum() < epsilon * (1 - 1e-6):
        np.testing.assert_array_equal(projected, perturbation)


def nearest_in_ball_and_box(moved, image, epsilon):
    """Find the nearest point by the breakpoints of the shrinkage, between which its norm is linear, in float64."""
    wanted, low, high = moved - image, -image, 1 - image

    def shrunk(threshold):
        return np.clip(np.sign(wanted) * np.maximum(np.abs(wanted) - threshold, 0), low, high)

    edge = np.where(wanted > 0, high, -low)
    knots = np.unique(np.concatenate([[0.0], np.abs(wanted), np.maximum(np.abs(wanted) - edge, 0)]))
    norms = np.array([np.abs(shrunk(knot)).sum() for knot in knots])
    if norms[0] <= epsilon:
        return image + shrunk(0)
    after = np.flatnonzero(norms <= epsilon)[0]
    share = (norms[after - 1] - epsilon) / (norms[after - 1] - norms[after])
    return image + shrunk(knots[after - 1] + share * (knots[after] - knots[after - 1]))


inside_l1 = jax.jit(ball("l1").inside)


@settings(max_examples=80, deadline=None)
@given(perturbations, arrays(np.float32, (12,), elements=st.floats(0, 1, width=32, allow_subnormal=False)), sizes)
def test_l1_inside_is_the_nearest_point_of_ball_and_box(perturbation, image, epsilon):
    moved, epsilon = image + perturbation, np.float32(epsilon)
    found = np.asarray(inside_l1(moved, image, epsilon), np.float64)
    expected = nearest_in_ball_and_box(moved.astype(np.float64), image.astype(np.float64), float(epsilon))
    np.testing.assert_allclose(found, expected, atol=5e-6)
    assert np.abs(found - image.astype(np.float64)).sum() <= epsilon + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("epsilon", [0.5, 12.0, 60.0])
def test_l1_inside_keeps_to_the_ball_in_images_of_many_values(epsilon):
    random = np.random.default_rng(0)
    image = random.uniform(size=(20, 32, 32, 3)).astype(np.float32)
    moved = image + random.normal(size=image.shape).astype(np.float32)
    found = np.asarray(jax.vmap(ball("l1").inside, in_axes=(0, 0, None))(moved, image, np.float32(epsilon)))
    norms = np.abs(found.astype(np.float64) - image.astype(np.float64)).sum(axis=(1, 2, 3))
    assert norms.max() <= epsilon * (1 + 1e-6) + 1e-6
    assert norms.min() >= epsilon * (1 - 1e-4)


def test_l1_direction_shares_a_step_of_one_among_the_steepest_entries():
    np.testing.assert_array_equal(directions["l1"](np.float32([1, -3, 3, 0])), np.float32([0, -0.5, 0.5, 0]))


def test_l1_size_is_the_sum_of_magnitudes():
    assert ball("l1").size(jnp.array([[1.0, -2.0], [0.5, 0.0]])) == 3.5


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
    pointed = np.asarray(draw["l1"](keys))
    shares = (np.abs(pointed).sum(axis=1) / 0.5) ** 3
    assert shares.max() <= 1 + 1e-5
    np.testing.assert_allclose(np.quantile(shares, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.03)
    # On the sphere of three entries, each one's share of the length has density 2(1 - s).
    part = np.abs(pointed[:, 0]) / np.abs(pointed).sum(axis=1)
    np.testing.assert_allclose(np.quantile(1 - (1 - part) ** 2, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.03)
    np.testing.assert_allclose(pointed.mean(axis=0), 0, atol=0.02)


@pytest.mark.parametrize(("norm", "order"), [("linf", np.inf), ("l2", 2), ("l1", 1)])
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
        ("l0", 0.1, r"one of \['l1', 'l2', 'linf'\], got 'l0'"),
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
