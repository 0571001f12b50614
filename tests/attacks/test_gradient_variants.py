"""R-FGSM, PGD in the l1 norm, PGD by Adam, and what holds of PGD in every norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks
from jaxpurify.attacks.gradient import RFGSM, AdamPGD
from jaxpurify.attacks.losses import margin
from jaxpurify.models import classifier

EPSILON = 16 / 255
KEY = jax.random.key(0)


def flat(images):
    return np.asarray(images, np.float64).reshape(len(images), -1)


def still(outputs, reference):
    return jnp.zeros(outputs.shape[0])


def test_r_fgsm_steps_to_a_random_corner_and_then_by_what_is_left(linear):
    images = linear.images * 0.5 + np.float32(0.25)
    start = RFGSM(epsilon=EPSILON, loss=still)(linear.target, images, linear.labels, KEY).images
    moved = np.asarray(start - images)
    np.testing.assert_allclose(np.abs(moved), EPSILON / 2, atol=1e-6)
    assert 0.4 < (moved > 0).mean() < 0.6
    assert (np.ptp(moved, axis=0) > 0).any()  # each image has its own corner
    result = RFGSM(epsilon=EPSILON, loss="margin")(linear.target, images, linear.labels, KEY)
    weights = linear.weights[0][:, 1].reshape(images.shape[1:])
    away = np.where(linear.labels == 0, 1, -1).reshape(-1, 1, 1, 1) * np.sign(weights)
    np.testing.assert_allclose(result.images, np.asarray(start) + np.float32(EPSILON / 2) * away, atol=1e-6)
    with pytest.raises(ValueError, match=r"random_share must be a share from 0 to 1, got 1.5"):
        RFGSM(random_share=1.5)


def test_l1_steps_reach_the_optimum_of_a_linear_model(linear):
    """The best perturbation of the l1 norm fills the pixels of the largest weights up to the box, one by one."""
    epsilon, pixels, weights = 2.0, flat(linear.images), linear.weights[0][:, 1].astype(np.float64)
    towards = np.where(linear.labels == 0, 1, -1)[:, None] * weights
    room = np.where(towards > 0, 1 - pixels, pixels)
    order = np.argsort(-np.abs(towards), axis=1)
    used = np.cumsum(np.take_along_axis(room, order, 1), axis=1)
    filled = np.diff(np.minimum(used, epsilon), axis=1, prepend=0)
    gain = (filled * np.take_along_axis(np.abs(towards), order, 1)).sum(axis=1)
    before = np.where(linear.labels == 0, 1, -1) * (pixels @ weights + float(linear.weights[1][1]))
    result = attacks.PGD(norm="l1", epsilon=epsilon, loss="margin")(linear.target, linear.images, linear.labels, KEY)
    share = (result.loss - before) / gain
    assert 0.95 < share.min() <= share.max() <= 1.0001
    assert share.mean() > 0.98
    assert (result.norm <= epsilon + 1e-5).all()


def test_adam_moves_each_pixel_by_the_step_however_small_the_gradient(linear, lenient):
    def tiny(outputs, reference):
        return 1e-25 * margin(outputs, reference)

    images = linear.images * 0.2 + np.float32(0.4)
    for norm, size in (("linf", 0.01), ("l2", 0.01 / np.sqrt(60)), ("l1", 0.01 / 60)):
        attack = AdamPGD(norm=norm, epsilon=1.0, step_size=0.01, steps=1, random_start=False, loss=tiny)
        moved = attack(linear.target, images, linear.labels).images - images
        np.testing.assert_allclose(np.abs(moved), size, rtol=1e-3)


def test_adam_reaches_the_optimum_of_a_linear_model(linear, lenient):
    pgd, adam = (
        attack(epsilon=EPSILON, loss="margin", steps=20)(linear.target, linear.images, linear.labels, KEY)
        for attack in (attacks.PGD, AdamPGD)
    )
    np.testing.assert_allclose(adam.loss, pgd.loss, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_larger_ball_is_never_harder(toy, norm):
    sizes = np.array([0.0, 0.1, 0.3, 0.6, 1.0]) * {"linf": 0.15, "l2": 1.0, "l1": 8.0}[norm]
    successes = [
        np.asarray(attacks.PGD(norm=norm, epsilon=size, steps=20)(toy.target, toy.images, toy.labels, KEY).success)
        for size in sizes
    ]
    assert (np.diff([success.mean() for success in successes]) >= 0).all()
    assert successes[0].sum() == 1
    assert successes[-1].mean() > 0.8


@pytest.mark.parametrize("attack", [attacks.FGSM(epsilon=0.2), attacks.PGD(epsilon=0.2, steps=10)])
@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_cross_entropy_attacks_a_model_whose_logits_are_thousands_apart(toy, attack, scale):
    def apply(weights, images):
        return jnp.asarray(scale, images.dtype) * toy.apply(weights, images)

    found = attack(classifier(apply, toy.weights), toy.images, toy.labels, KEY)
    assert found.success.mean() >= 0.6
