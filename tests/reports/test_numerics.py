"""Attacks at the ends of what numbers can be: gradients of nothing, of NaN, of 1e-30 and 1e30, logits of −inf."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks
from jaxpurify.attacks.result import FOOLED, NOT_FINITE, SURVIVED, UNRELIABLE
from jaxpurify.metrics.norms import check_perturbations
from jaxpurify.models import classifier

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).uniform(size=(6, 4, 4, 3)).astype(np.float32)
IMAGES[0], IMAGES[1] = 0, 1
WEIGHTS = np.random.default_rng(1).normal(size=(48, 5)).astype(np.float32)
SHORT = {"steps": 3, "queries": 60, "draws": 20, "samples": 4, "searches_of_price": 2, "neighbours": 2, "chunk": 20}
# Cascades, and configurations of a loop of which others are tried.
SLOW = {
    "autoattack",
    "adaptive",
    "r-fgsm",
    "i-fgsm",
    "ni-fgsm",
    "di-fgsm",
    "m-di-fgsm",
    "ti-fgsm",
    "vmi-fgsm",
    "adam-pgd",
    "spsa",
}
SIZES = {"linf": 0.05, "l2": 0.5, "l1": 2.0}


def linear(variables, images):
    weights, bias = variables
    return images.reshape(len(images), -1) @ weights + bias[None]


def constant(variables, images):
    del variables
    return jnp.broadcast_to(jnp.arange(5.0)[None], (len(images), 5))


def no_slope(variables, images):
    """Linear, but for an addend of zero whose slope is NaN."""
    return linear(variables, images) + jnp.sqrt(jnp.maximum(images - 2, 0)).sum(axis=(1, 2, 3))[:, None]


def attack_of(name, norm):
    kind = attacks.names()[name]
    fields = {field.name for field in dataclasses.fields(kind)}
    return kind(norm=norm, epsilon=SIZES[norm], **{field: SHORT[field] for field in SHORT if field in fields})


def every_attack():
    found = []
    for name in attacks.names():
        for norm in SIZES:
            try:
                attack_of(name, norm)
            except ValueError:  # not a norm of this attack
                continue
            slow = pytest.mark.slow if name in SLOW else ()
            found.append(pytest.param(name, norm, marks=slow, id=f"{name}-{norm}"))
    return found


class Case(NamedTuple):
    """Weights and a bias of the linear model, and which statuses are honest."""

    weights: object
    bias: object = np.zeros(5, np.float32)
    honest: tuple = (SURVIVED, FOOLED)


CASES = {
    "zero": Case(WEIGHTS * 0, np.arange(5, dtype=np.float32), (SURVIVED, UNRELIABLE)),
    "equal": Case(np.ones_like(WEIGHTS), np.arange(5, dtype=np.float32), (SURVIVED, UNRELIABLE)),
    "NaN": Case(WEIGHTS * np.nan, honest=(NOT_FINITE,)),
    "1e-30": Case(WEIGHTS * np.float32(1e-30)),
    "1e30": Case(WEIGHTS * np.float32(1e30)),
    "-inf": Case(WEIGHTS, np.array([0, 0, 0, -np.inf, -np.inf], np.float32)),
    "all -inf": Case(WEIGHTS, np.full(5, -np.inf, np.float32), (NOT_FINITE,)),
}


def labels_of(target):
    return np.asarray(jnp.nan_to_num(target(jnp.asarray(IMAGES)), nan=0, neginf=-1)).argmax(axis=1).astype(np.int32)


def found_by(attack, target):
    labels = labels_of(target)
    found = attack(target, IMAGES, labels, KEY)
    check_perturbations(IMAGES, found.images, norm=attack.norm, epsilon=attack.epsilon)
    assert np.isfinite(found.norm).all()
    # What it says of its images is so.
    logits = np.asarray(target(jnp.asarray(found.images)))
    wrong = ~np.isnan(logits).any(axis=1) & (logits > -np.inf).any(axis=1) & (logits.argmax(axis=1) != labels)
    np.testing.assert_array_equal(found.success, wrong & found.success)
    np.testing.assert_array_equal(found.status == FOOLED, found.success)
    return found


@pytest.mark.filterwarnings("ignore:the target")
@pytest.mark.parametrize(("name", "norm"), every_attack())
def test_no_attack_leaves_the_ball_or_lies_whatever_gradients_and_logits_are(name, norm, lenient):
    attack = attack_of(name, norm)
    for which, case in CASES.items():
        target = classifier(linear, (jnp.asarray(case.weights), jnp.asarray(case.bias)))
        found = found_by(attack, target)
        assert set(np.asarray(found.status).tolist()) <= set(case.honest), which
        if which == "zero":  # a search that follows a gradient says that there was none
            follows = attack.uses_gradient and not isinstance(attack, attacks.Cascade)
            assert (np.asarray(found.status) == (UNRELIABLE if follows else SURVIVED)).all(), which
        if which in ("1e-30", "1e30"):
            # The same model but for its scale.
            plain = found_by(attack, classifier(linear, (jnp.asarray(WEIGHTS), jnp.asarray(case.bias))))
            if name != "carlini-wagner":  # which weighs the margin, in logits, against the distance
                assert found.success.sum() >= plain.success.sum() - 1, which


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the target")
@pytest.mark.parametrize(("name", "norm"), every_attack())
def test_no_attack_leaves_the_ball_where_there_is_no_gradient_to_compile(name, norm, lenient):
    found = found_by(attack_of(name, norm), classifier(constant, ()))
    assert set(np.asarray(found.status).tolist()) <= {SURVIVED, UNRELIABLE}
    weights = jnp.asarray(WEIGHTS), jnp.zeros(5)
    found_by(attack_of(name, norm), classifier(no_slope, weights))


@pytest.mark.parametrize("norm", SIZES)
def test_directions_are_finite_and_of_length_one_at_any_scale(norm):
    from jaxpurify.attacks.norms import ball

    direction = jax.jit(jax.vmap(ball(norm).direction))
    gradients = np.random.default_rng(0).normal(size=(5, 6, 6, 3))
    scales = np.array([1e-37, 1e-30, 1, 1e30, 3e37]).reshape(5, 1, 1, 1)
    found = np.asarray(direction(jnp.asarray(gradients * scales, jnp.float32)), np.float64)
    orders = {"linf": np.inf, "l2": 2, "l1": 1}
    lengths = [np.linalg.norm(each.ravel(), orders[norm]) for each in found]
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)
    assert (np.asarray(direction(jnp.zeros((2, 6, 6, 3)))) == 0).all()
    assert (np.asarray(jax.jit(lambda: ball(norm).direction(jnp.zeros((6, 6, 3))))()) == 0).all()


def test_a_model_of_masked_classes_is_attacked_as_one_with_very_low_logits():
    """Classes masked with minus infinity give the verdicts that −1e9 in its place gives."""

    def of_bias(low):
        return classifier(linear, (jnp.asarray(WEIGHTS), jnp.array([0, 0, 0, low, low])))

    labels = labels_of(of_bias(-jnp.inf))
    for attack in (attacks.PGD(epsilon=0.02, steps=5), attacks.APGD(epsilon=0.02, steps=5, loss="dlr")):
        masked, low = (
            attacks.verdict(
                attack, classifier(linear, (jnp.asarray(WEIGHTS), jnp.array([0, 0, 0, b, b]))), IMAGES, labels, KEY
            )
            for b in (-jnp.inf, -1e9)
        )
        np.testing.assert_array_equal(masked.fooled, low.fooled)
        assert (masked.status != NOT_FINITE).all()


@pytest.mark.filterwarnings("ignore:the target")
@pytest.mark.parametrize("attack", [attacks.FGSM(epsilon=0.05), attacks.Square(epsilon=0.05, queries=20)])
def test_nan_neither_stands_nor_falls(attack):
    target = classifier(lambda weights, images: jnp.full((len(images), 5), jnp.nan), WEIGHTS)
    found = attacks.verdict(attack, target, IMAGES, np.zeros(6, np.int32), KEY)
    assert (found.robust_accuracy, found.draw_accuracy) == (0, 0)
    assert (found.stood == 0).all()
    assert not found.fooled.any()
    assert (found.status == NOT_FINITE).all()
    assert "nothing is proved" in " ".join(found.flags)


@pytest.mark.filterwarnings("ignore:the target")
@pytest.mark.parametrize(("name", "norm"), every_attack())
def test_every_image_may_have_its_own_size(name, norm, lenient):
    """An image attacked with its own ε and step is attacked as among images that all have them."""
    attack, target = attack_of(name, norm), classifier(linear, (jnp.asarray(WEIGHTS), jnp.zeros(5)))
    labels, first = labels_of(target), np.arange(len(IMAGES)) % 2 == 0
    for field, large in (("epsilon", SIZES[norm]), ("step_size", 0.1 * SIZES[norm])):
        if field not in {each.name for each in dataclasses.fields(attack)}:
            continue

        def images(size, field=field):
            return np.asarray(dataclasses.replace(attack, **{field: size})(target, IMAGES, labels, KEY).images)

        sizes = np.where(first, large, large / 4).astype(np.float32)
        own = images(sizes)
        expected = np.where(first[:, None, None, None], images(large), images(large / 4))
        np.testing.assert_array_equal(own, expected)
        check_perturbations(IMAGES, own, norm=norm, epsilon=sizes if field == "epsilon" else attack.epsilon)


def test_sizes_of_images_survive_compaction_batches_and_evaluation():
    target = classifier(linear, (jnp.asarray(WEIGHTS), jnp.zeros(5)))
    images = np.random.default_rng(3).uniform(size=(37, 4, 4, 3)).astype(np.float32)
    labels = np.asarray(target(jnp.asarray(images))).argmax(axis=1).astype(np.int32)
    sizes = np.random.default_rng(4).uniform(0, 0.05, 37).astype(np.float32)
    attack = attacks.PGD(epsilon=sizes, steps=6)
    whole = attacks.run(attack, target, images, labels, KEY, batch_size=64)
    in_batches = attacks.run(attack, target, images, labels, KEY, batch_size=8)
    np.testing.assert_array_equal(whole.images, in_batches.images)
    verdict = attacks.verdict(attack, target, images, labels, KEY, batch_size=8)
    np.testing.assert_array_equal(whole.success, verdict.fooled)
    cascade = attacks.AutoAttack(epsilon=sizes, version="custom", attacks=(attacks.FGSM(), attacks.PGD(steps=6)))
    found = attacks.verdict(cascade, target, images, labels, KEY, batch_size=8)
    assert set(np.flatnonzero(whole.success)) <= set(np.flatnonzero(found.fooled))
    assert not found.fooled[sizes < 1e-4].any()
