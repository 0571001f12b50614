"""The shortest step to a hyperplane within the box, against float64 references."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxpurify.attacks import hyperplane
from jaxpurify.attacks.hyperplane import likeliest_others, nearest_boundary, shortest_step
from jaxpurify.models import as_target

NORMS = ["linf", "l2"]


def by_programming(point, weights, need, norm):
    """Solve the same by linear or quadratic programming, which know nothing of multipliers."""
    count = len(point)
    if norm == "linf":
        cost = np.r_[np.zeros(count), 1.0]
        ones, eye = np.ones((count, 1)), np.eye(count)
        bounds = [(-value, 1 - value) for value in point] + [(0, None)]
        found = optimize.linprog(
            cost,
            A_ub=np.block([[eye, -ones], [-eye, -ones]]),
            b_ub=np.zeros(2 * count),
            A_eq=np.r_[weights, 0][None],
            b_eq=[need],
            bounds=bounds,
        )
        return found.fun
    found = optimize.minimize(
        lambda step: (step @ step, 2 * step),
        np.zeros(count),
        jac=True,
        bounds=list(zip(-point, 1 - point, strict=True)),
        constraints={"type": "eq", "fun": lambda step: weights @ step - need, "jac": lambda step: weights},
        options={"ftol": 1e-14, "maxiter": 500},
        method="SLSQP",
    )
    assert found.success
    return np.sqrt(found.fun)


@pytest.mark.parametrize("norm", NORMS)
def test_the_reference_solves_the_problem_that_programming_solves(reference_step, norm):
    random = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.9):
        point, weights = random.uniform(size=15), random.normal(size=15)
        point[:5] = np.round(point[:5])
        need = share * (weights * np.where(weights > 0, 1 - point, -point)).sum()
        assert reference_step(point, weights, need, norm)[1] == pytest.approx(
            by_programming(point, weights, need, norm), rel=1e-5
        )


KINDS = {
    "normal": lambda random, shape: random.normal(size=shape),
    "heavy": lambda random, shape: random.standard_cauchy(shape),
    "uneven": lambda random, shape: random.normal(size=shape) * np.exp(4 * random.normal(size=shape)),
    "tiny": lambda random, shape: 1e-25 * random.normal(size=shape),
    "sparse": lambda random, shape: random.normal(size=shape) * (random.uniform(size=shape) < 0.03),
}


@functools.cache
def steps_of(norm):
    return jax.jit(jax.vmap(functools.partial(shortest_step, norm=norm)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", NORMS)
def test_the_shortest_step_is_the_one_of_float64(reference_step, norm, kind):
    random = np.random.default_rng(1)
    points = np.float32(random.uniform(size=(48, 300)))
    points[:12] = np.round(points[:12])  # black and white pixels
    points[12:16] = 1.0
    weights = np.float32(KINDS[kind](random, points.shape))
    signs = random.choice([-1, 1], size=(48, 1))
    reach = (np.abs(weights) * np.where(signs * weights > 0, 1 - points, points)).sum(axis=1, keepdims=True)
    # The last are out of reach, where the step goes to the corner.
    shares = np.where(np.arange(48) < 44, np.exp(random.uniform(-8, -0.1, size=48)), 1.2)[:, None]
    needs = np.float32((reach * signs * shares)[:, 0])
    found = steps_of(norm)(points, weights, needs)
    assert (np.asarray(points + found) >= 0).all()
    assert (np.asarray(points + found) <= 1).all()
    for step, point, weight, need in zip(found, points, weights, needs, strict=True):
        expected = reference_step(np.float64(point), np.float64(weight), float(need), norm)[0]
        np.testing.assert_allclose(step, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("norm", NORMS)
def test_a_constant_function_or_nothing_to_gain_moves_nothing(norm):
    points = np.full((3, 300), 0.5, np.float32)
    weights = np.float32(np.random.default_rng(2).normal(size=(3, 300)))
    weights[0] = 0
    found = np.asarray(steps_of(norm)(points, weights, np.float32([1e10, 0, 1e38])))
    assert (found[:2] == 0).all()
    np.testing.assert_array_equal(found[2], np.sign(weights[2]) / 2)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 8, pytest.param(5, marks=pytest.mark.slow)])
def test_boundaries_in_parts_are_those_of_all_at_once(norm, classes, monkeypatch):
    random = np.random.default_rng(classes)
    weights = jnp.asarray(random.normal(size=(12, classes)), jnp.float32)
    images = jnp.asarray(random.uniform(size=(6, 2, 2, 3)), jnp.float32)
    labels = jnp.asarray(random.integers(classes, size=6), jnp.int32)

    def target(images, key=None):
        logits = jnp.tanh(images.reshape(len(images), 12) @ weights)
        # One image meets what is not finite, the boundaries of another have no gradient.
        logits = logits * jnp.where(jnp.arange(len(images)) == 2, jnp.inf, 1.0)[:, None]
        return jnp.where(jnp.arange(len(images))[:, None] == 4, jax.lax.stop_gradient(logits), logits)

    def look():
        return jax.jit(
            lambda images: nearest_boundary(
                as_target(target), images, lambda o: (labels, likeliest_others(o, labels, count=classes - 1)), norm=norm
            )
        )(images)

    whole = look()
    assert list(whole.finite) == [True, True, False, True, True, True]
    assert not whole.steep[4]
    for room in (1, 2, 3):
        monkeypatch.setattr(hyperplane, "ROOM", room * images.nbytes)
        for name, part, expected in zip(whole._fields, look(), whole, strict=True):
            np.testing.assert_array_equal(part, expected, err_msg=name)


def test_boundaries_of_many_classes_take_the_memory_of_a_few(monkeypatch):
    monkeypatch.setattr(hyperplane, "ROOM", 2**20)
    images, labels = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32), jnp.zeros(2, jnp.int32)

    def look(images):
        def target(images, key=None):
            return jnp.tanh(images.mean(axis=(1, 2)) @ jnp.ones((3, 300), jnp.float32))

        chosen = functools.partial(likeliest_others, own=labels, count=299)
        return nearest_boundary(as_target(target), images, lambda o: (labels, chosen(o)), norm="l2")

    found = jax.jit(lambda images: look(images)[1:5]).lower(images).compile()
    assert found.memory_analysis().temp_size_in_bytes < 2**23  # all normals at once are 29 MB
