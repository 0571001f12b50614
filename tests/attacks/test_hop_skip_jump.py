import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks
from jaxpurify.attacks.hop_skip_jump import HopSkipJump
from jaxpurify.gradients import Expectation
from jaxpurify.models import classifier
from jaxpurify.purifiers import BitDepth
from jaxpurify.testing import count_compilations

KEY = jax.random.key(0)


def run(toy, target=None, **options):
    options = {"queries": 400, "samples": 40, "chunk": 100, **options}
    target = toy.target if target is None else target
    return attacks.run(HopSkipJump(**options), target, toy.images, toy.labels, KEY, batch_size=len(toy.images))


@pytest.fixture(scope="module")
def found(toy):
    """One search in each norm, shared by the tests that look at what it found."""
    return {norm: run(toy, norm=norm) for norm in ("l2", "linf")}


def right(target, images, labels):
    return np.asarray(target(jnp.asarray(images))).argmax(axis=1) == labels


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1)])
def test_the_distance_to_a_plane_is_found(linear, norm, dual):
    """Away from the edges of [0, 1] the nearest image of an affine model is known."""
    images = linear.images * np.float32(0.2) + np.float32(0.4)
    weights = linear.weights[0][:, 1].astype(np.float64)
    logits = images.reshape(12, -1) @ weights + 0.3
    labels = (logits > 0).astype(np.int32)
    attack = HopSkipJump(norm=norm, queries=800, chunk=100)
    result = attack(linear.target, images, labels, KEY)
    nearest = np.abs(logits) / np.linalg.norm(weights, ord=dual)
    assert result.success.all()
    ratio = np.asarray(result.norm) / nearest
    assert (ratio >= 1 - 1e-3).all()
    assert np.median(ratio) <= (1.15 if norm == "l2" else 1.3)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_images_succeed_at_the_distance_said(toy, found, norm):
    result, order = found[norm], {"l2": 2, "linf": np.inf}[norm]
    moved = (np.asarray(result.images) - toy.images).reshape(16, -1)
    np.testing.assert_allclose(result.norm, np.linalg.norm(moved, ord=order, axis=1), rtol=1e-5)
    np.testing.assert_allclose(result.loss, -np.asarray(result.norm), atol=1e-6)
    assert result.success.all()
    assert not right(toy.target, result.images, toy.labels).any()


def test_images_that_are_wrong_already_cost_one_query(toy, found):
    for result in found.values():
        assert result.norm[0] == 0
        assert result.forwards[0] == 1
        np.testing.assert_array_equal(result.forwards[1:], 400)


def test_rows_and_chunks_change_nothing(toy, found):
    rows = np.random.default_rng(0).permutation(16)
    keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(16))[rows]
    attack = HopSkipJump(queries=400, samples=40, chunk=160)
    other = attacks.run(attack, toy.target, toy.images[rows], toy.labels[rows], keys, batch_size=8, devices="all")
    np.testing.assert_allclose(other.norm, np.asarray(found["l2"].norm)[rows], rtol=1e-3)


def test_larger_budgets_come_nearer(toy, found):
    longer = run(toy, queries=1200)
    assert (longer.norm <= found["l2"].norm).all()  # the same search, continued
    assert np.median(longer.norm) < 0.95 * np.median(found["l2"].norm)


def test_only_images_within_epsilon_are_returned(toy, found):
    epsilon = float(np.median(found["l2"].norm))
    with count_compilations() as compilations:
        near, far = run(toy, epsilon=epsilon), run(toy, epsilon=epsilon * 2)
    assert compilations.count("advance") <= 1
    np.testing.assert_array_equal(near.success, np.asarray(found["l2"].norm) <= epsilon)
    np.testing.assert_array_equal(np.asarray(near.images)[~near.success], toy.images[~near.success])
    assert far.success.sum() > near.success.sum()


def rounded(weights, images, *, apply):
    return apply(weights, BitDepth(bits=4.0)(images))


def saturated(weights, images, *, apply):
    return jax.nn.softmax(1e4 * apply(weights, images))


def stopped(weights, images, *, apply):
    return jax.lax.stop_gradient(apply(weights, images))


@pytest.mark.parametrize(
    "masked", [stopped, *(pytest.param(each, marks=pytest.mark.slow) for each in (rounded, saturated))]
)
@pytest.mark.filterwarnings("ignore:the target's outputs are non-negative")
def test_masked_gradients_do_not_help(toy, masked):
    """Where gradients are zero PGD fails, and decisions tell as much as those of the bare model."""
    apply = functools.partial(masked, apply=toy.apply)
    target, epsilon = classifier(apply, toy.weights), 1.0
    pgd = attacks.PGD(norm="l2", epsilon=epsilon, random_start=False)
    bare = attacks.run(pgd, toy.target, toy.images, toy.labels, KEY, batch_size=16).success.mean()
    fails = attacks.run(pgd, target, toy.images, toy.labels, KEY, batch_size=16).success.mean()
    falls = run(toy, target, queries=1200, epsilon=epsilon).success.mean()
    assert bare >= 0.8
    assert fails <= bare - 0.3
    assert falls >= bare - 0.15


def test_a_target_class_is_reached_from_images_of_that_class(toy):
    classes = np.asarray(toy.target(jnp.asarray(toy.images))).argmax(axis=1)
    targets = np.array([next(c for c in classes if c != own) for own in classes], np.int32)
    attack = HopSkipJump(queries=400, samples=40, starts=toy.images)
    result = attack(toy.target, toy.images, toy.labels, KEY, targets)
    assert result.success.all()
    np.testing.assert_array_equal(np.asarray(toy.target(jnp.asarray(result.images))).argmax(axis=1), targets)
    for image, target, norm in zip(toy.images, targets, np.asarray(result.norm), strict=True):
        assert norm < 0.7 * np.linalg.norm((toy.images[classes == target] - image).reshape(-1, 90), axis=1).min()


def test_decisions_of_a_random_target_are_those_of_most_draws(noisy):
    attack = HopSkipJump(queries=1000, samples=20, eot=Expectation(samples=5, randomness="frozen"))
    result = attack(noisy.target, noisy.images, noisy.labels, KEY)
    assert (np.asarray(result.forwards) <= 1000).all()
    assert result.success.all()
    draws = [right_on(noisy, result.images, jax.random.key(i)) for i in range(40)]
    assert np.mean(draws) < 0.65
    clean = [right_on(noisy, noisy.images, jax.random.key(i)) for i in range(40)]
    assert np.mean(clean) > np.mean(draws) + 0.1


def right_on(noisy, images, key):
    return np.asarray(noisy.target(jnp.asarray(images), key)).argmax(axis=1) == noisy.labels


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l1"}, "norm of HopSkipJump must be 'linf' or 'l2', got 'l1'"),
        ({"queries": -1}, "queries must be an integer of at least 1, got -1"),
        ({"starts": np.zeros((4, 4, 3))}, r"starts must be images of shape .* got shape \(4, 4, 3\)"),
        ({"eot": Expectation(samples=3)}, "HopSkipJump compares answers to different queries, got eot with fresh"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HopSkipJump(**options)


def test_targets_without_starts_are_refused(toy):
    with pytest.raises(ValueError, match="got targets without starts: pass starts=images of the target classes"):
        HopSkipJump()(toy.target, toy.images, toy.labels, KEY, toy.labels)
    with pytest.raises(ValueError, match=r"starts must be images of shape \(5, 6, 3\), got \(6, 5, 3\)"):
        HopSkipJump(starts=np.zeros((2, 6, 5, 3), np.float32))(toy.target, toy.images, toy.labels, KEY)


def test_float64_images_stay_float64(toy, x64):
    weights = tuple(np.float64(weight) for weight in toy.weights)
    images = np.float64(toy.images)
    attack = HopSkipJump(norm="linf", queries=150, samples=10)
    found = attacks.run(attack, classifier(toy.apply, weights), images, toy.labels, jax.random.key(0), batch_size=16)
    assert found.images.dtype == np.float64
    assert found.success.mean() >= 0.5
