"""A defence that is broken by design: rounding to eight levels, whose exact gradient is zero."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import attacks, gradients
from jaxpurify.evaluation.threat_models import exact_gradient_is_zero
from jaxpurify.models import Defended, classifier
from jaxpurify.purifiers import BitDepth, Identity

KEY = jax.random.key(0)
ROUNDING = BitDepth(bits=3.0)
PGD = attacks.PGD(epsilon=8 / 255, steps=20)


def _affine(weights, images):
    return 20 * (images.reshape(images.shape[0], -1) - 0.5) @ weights


def robust_accuracy(target, images, labels, attack=PGD):
    return 1 - attacks.run(attack, target, images, labels, KEY, batch_size=len(images)).success.mean()


def test_rounding_stands_against_its_zero_gradient_and_falls_to_whoever_knows_it(trained):
    model, (_, images, labels) = classifier(_affine, trained.weights), trained
    clean = (np.asarray(Defended(model, ROUNDING)(jnp.asarray(images))).argmax(axis=1) == labels).mean()
    assert clean >= 0.9
    undefended = robust_accuracy(model, images, labels)
    assert undefended <= 0.2

    assert exact_gradient_is_zero(ROUNDING, images[:8], KEY)
    assert robust_accuracy(Defended(model, ROUNDING), images, labels) >= clean - 0.1
    noise = attacks.RandomNoise(epsilon=8 / 255, draws=300, chunk=100)
    assert robust_accuracy(Defended(model, ROUNDING), images, labels, noise) >= clean - 0.1

    for known in (gradients.straight_through(ROUNDING), gradients.substitute(ROUNDING)):
        assert robust_accuracy(Defended(model, known), images, labels) <= undefended + 0.05
    assert not exact_gradient_is_zero(Identity(), images[:8], KEY)
