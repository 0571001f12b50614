"""Attacks on networks so sure of themselves that cross entropy vanishes in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks
from jaxpurify.attacks import losses
from jaxpurify.models import classifier

WEIGHTS = np.random.default_rng(0).normal(size=(192, 5)).astype(np.float32)
IMAGES = np.full((1, 8, 8, 3), 0.5, np.float32)
LABELS = np.zeros(1, np.int32)


def sure(weights, images):
    """Give class zero by a margin of 30 at grey."""
    offset = jnp.array([[30.0, 0.0, 0.0, 0.0, 0.0]], jnp.float32)
    return (images - 0.5).reshape(len(images), -1) @ weights + offset


@pytest.mark.parametrize("gap", [5.0, 17.0, 40.0, 80.0])
def test_cross_entropy_keeps_its_value_and_both_directions(gap):
    logits = np.array([[gap, 0.0, -1.0]])
    exact = np.log1p(np.exp(-gap) + np.exp(-gap - 1))
    loss, gradient = jax.value_and_grad(lambda z: losses.cross_entropy(z, jnp.array([0])).sum())(
        jnp.asarray(logits, jnp.float32)
    )
    np.testing.assert_allclose(loss, exact, rtol=1e-5)
    np.testing.assert_allclose(gradient[0, 0], -gradient[0, 1:].sum(), rtol=1e-5)
    assert gradient[0, 0] < 0


@pytest.mark.parametrize("attack", [attacks.FGSM(), attacks.PGD(steps=10), attacks.IFGSM()])
def test_a_sure_network_is_attacked_as_hard_as_by_the_margin(attack):
    target = classifier(sure, WEIGHTS)
    found = attack(target, IMAGES, LABELS, jax.random.key(0))
    assert found.margin[0] < 26  # 30 on the clean image, 23.6 at the best corner
    assert found.norm[0] == pytest.approx(8 / 255, rel=1e-5)


def noisy(weights, images, key):
    """Add to a linear score noise much larger than what a step changes."""
    score = (images - 0.5).reshape(len(images), -1) @ weights
    noise = 3 * jax.vmap(lambda k: jax.random.normal(k, (), jnp.float32))(key)
    return jnp.stack([score + noise, -score], axis=1)


def test_a_random_target_is_left_with_the_last_iterate_not_the_luckiest():
    weights = WEIGHTS[:, 0] * 0.1
    images = np.random.default_rng(1).uniform(0.3, 0.7, (20, 8, 8, 3)).astype(np.float32)
    target = classifier(noisy, weights, random=True)
    found = attacks.IFGSM(epsilon=0.05, steps=5)(target, images, np.zeros(20, np.int32), jax.random.key(0))
    np.testing.assert_allclose(found.norm, 0.05, rtol=1e-4)


def test_a_plain_function_with_keys_is_attacked():
    def target(images, key):
        return noisy(WEIGHTS[:, 0], images, key)

    found = attacks.PGD(steps=2)(target, IMAGES, LABELS, jax.random.key(0))
    assert np.isfinite(found.loss).all()


def test_mean_probabilities_do_not_mask_a_sure_network():
    attack = attacks.PGD(steps=5, eot=attacks.Expectation(samples=2, of="probabilities"))
    found = attack(classifier(sure, WEIGHTS), IMAGES, LABELS, jax.random.key(0))
    assert found.margin[0] < 26


@pytest.mark.parametrize("options", [{"step_size": np.float32(-0.01)}, {"step_fraction": -1.0}])
def test_a_step_downhill_is_refused(options):
    with pytest.raises(ValueError, match=r"must be a (positive|finite) number"):
        attacks.PGD(**options)
