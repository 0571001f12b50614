import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpurify.attacks as attacks
from jaxpurify.evaluation.threat_models import (
    LADDER,
    NotEvaluatedError,
    ThreatModel,
    builtin,
    exact_gradient_is_zero,
    name_attacks,
)
from jaxpurify.models import Sequential, purifier
from jaxpurify.purifiers import BitDepth, GaussianSmoothing, Identity

IMAGES = np.random.default_rng(0).uniform(size=(3, 8, 8, 1)).astype(np.float32)


def classify(images):
    return images.mean(axis=(1, 2)) @ jnp.asarray([[1.0, -1.0]], images.dtype)


@purifier
class Jitter:
    """Adds noise of its key."""

    random = True

    def __call__(self, images, key=None):
        return images + jax.vmap(lambda k: jax.random.normal(k, images.shape[1:], images.dtype))(key)


@purifier
class HalfRounded:
    """Rounds the upper half alone."""

    def __call__(self, images, key=None):
        return jnp.concatenate([jnp.round(images[:, :4] * 7) / 7, images[:, 4:]], axis=1)


@purifier
class Broken:
    """Has a gradient that is nowhere a number."""

    def __call__(self, images, key=None):
        return jnp.sqrt(images - images) + images


@pytest.mark.parametrize(
    ("defence", "zero"),
    [
        (Identity(), False),
        (GaussianSmoothing(sigma=1.0), False),
        (Jitter(), False),
        (HalfRounded(), False),
        (BitDepth(bits=3.0), True),
        (Sequential(GaussianSmoothing(sigma=1.0), BitDepth(bits=3.0)), True),
        (Broken(), True),
        (lambda images: jnp.round(images * 7) / 7, True),
    ],
)
def test_a_gradient_that_is_zero_everywhere_is_found(defence, zero):
    assert exact_gradient_is_zero(defence, IMAGES, jax.random.key(0)) is zero


def test_what_the_attacker_knows_is_in_the_gradient():
    def gradient(name):
        target = builtin(name).target(classify, BitDepth(bits=3.0))
        return jax.grad(lambda images: target(images)[:, 0].sum())(jnp.asarray(IMAGES))

    gradients = {name: gradient(name) for name in ("blind", "bpda", "substitute", "full")}
    assert not gradients["full"].any()
    for name in ("blind", "bpda", "substitute"):
        np.testing.assert_allclose(gradients[name], 1 / 64, rtol=1e-6)


def test_all_but_blind_see_the_purifier():
    defence = BitDepth(bits=1.0)
    for name in LADDER:
        seen = builtin(name).target(classify, defence)(jnp.asarray(IMAGES))
        images = jnp.asarray(IMAGES if name == "blind" else np.round(IMAGES))
        np.testing.assert_allclose(seen, classify(images), atol=1e-6)


def test_substitute_needs_a_surrogate():
    with pytest.raises(NotEvaluatedError, match="no stage declares a surrogate"):
        builtin("substitute").target(classify, GaussianSmoothing(sigma=1.0))


def test_noise_has_the_norm_and_size_of_each_attack():
    tried = name_attacks(
        [
            attacks.PGD(epsilon=0.1),
            attacks.FGSM(epsilon=0.1),
            attacks.PGD(epsilon=0.5, norm="l2"),
            attacks.PGD(epsilon=0.2),
        ]
    )
    noises = builtin("noise", noise_draws=30).attacks_for(tried)
    assert {(noise.norm, noise.epsilon) for noise in noises.values()} == {("linf", 0.1), ("linf", 0.2), ("l2", 0.5)}
    assert {noise.draws for noise in noises.values()} == {30}


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown threat model 'bdpa', expected one of noise, blind, bpda"):
        builtin("bdpa")


def test_attacks_are_named_apart():
    tried = [attacks.PGD(), attacks.PGD(restarts=2), attacks.FGSM(), attacks.PGD(norm="l2", epsilon=0.5, steps=10)]
    assert list(name_attacks(tried)) == ["PGD-40", "PGD-40 (2)", "FGSM", "PGD-10 l2"]
    assert name_attacks({"mine": attacks.PGD()})["mine"].steps == 40
    assert list(name_attacks(attacks.FGSM())) == ["FGSM"]


@pytest.mark.parametrize(
    ("tried", "error", "message"),
    [
        ([], ValueError, "at least one attack"),
        ({}, ValueError, "at least one attack"),
        ([attacks.PGD], TypeError, "got the class PGD"),
        (["pgd"], TypeError, "must be an attack such as"),
        (3, TypeError, "must be an attack such as"),
        ({1: attacks.PGD()}, TypeError, "name of an attack must be a string"),
    ],
)
def test_what_is_no_attack_is_refused(tried, error, message):
    with pytest.raises(error, match=message):
        name_attacks(tried)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "mine", "target": 3}, TypeError, r"must be f\(classifier, purifier\)"),
        ({"name": "", "target": max}, ValueError, "needs a name of its own"),
        ({"name": "clean", "target": max}, ValueError, 'other than "clean"'),
        ({"name": "mine", "target": max, "attacks": [max]}, TypeError, "must be an attack"),
        ({"name": "mine", "target": max, "attacks": []}, ValueError, "at least one attack"),
    ],
)
def test_a_threat_model_that_cannot_be_meant_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ThreatModel(**arguments)
