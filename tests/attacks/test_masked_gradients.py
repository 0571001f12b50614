"""Defences that hide their gradients on purpose: plain PGD fails on them, and what needs no argument breaks them.

| defence | its gradient |
|---|---|
| rounding to 6 to 12 levels | zero |
| softmax of 3,000 to 30,000 times the logits, given as outputs | underflows |
| stop-gradient, with a leak of up to once the gradient, turned round | zero, or points away |
| random switch between two networks that differ by a steep ripple of no height | of each: the ripple's |

The strengths are drawn at random, once a seed, and no attack is told of them.
"""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks
from jaxpurify.attacks.result import FOOLED, UNRELIABLE
from jaxpurify.models import Defended, classifier
from jaxpurify.purifiers import BitDepth

KEY = jax.random.key(0)
EPSILON = 6 / 255
IMAGES = 32


def affine(weights, images):
    return 20 * (images.reshape(images.shape[0], -1) - 0.5) @ weights


def saturated(variables, images):
    weights, scale = variables
    return jax.nn.softmax(scale * affine(weights, images))


def stopped(variables, images):
    weights, leak = variables
    return affine(weights, jax.lax.stop_gradient((1 + leak) * images) - leak * images)


def switched(variables, images, key):
    weights, ripple, slope = variables
    sign = jnp.where(jax.vmap(jax.random.bernoulli)(key), 1.0, -1.0)
    waves = jnp.sin(3000 * images.reshape(images.shape[0], -1)) / 3000
    return affine(weights, images) + slope * sign[:, None] * (waves @ ripple)


def defences(weights, seed) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    ripple = np.float32(20 * np.abs(weights).mean() * random.choice([-1, 1], size=weights.shape))
    bare = classifier(affine, weights)
    return {
        "rounding": Defended(bare, BitDepth(bits=float(np.log2(random.uniform(6, 12))))),
        "saturated softmax": classifier(saturated, (weights, np.float32(10 ** random.uniform(3.5, 4.5)))),
        "stop-gradient": classifier(stopped, (weights, np.float32(random.uniform(0, 1)))),
        "random switch": classifier(switched, (weights, ripple, np.float32(random.uniform(10, 20))), random=True),
    }


def some(trained):
    return trained.images[:IMAGES], trained.labels[:IMAGES]


def robust_accuracy(attack, target, trained):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*non-negative and sum to one")
        found = attacks.verdict(attack, target, *some(trained), KEY, batch_size=IMAGES)
    return found.draw_accuracy


def compare(trained, seed, name, *preset):
    target = defences(trained.weights, seed)[name]
    assert robust_accuracy(attacks.PGD(epsilon=0.0, steps=1), target, trained) >= 0.95
    plain = robust_accuracy(attacks.PGD(epsilon=EPSILON), target, trained)
    undefended = robust_accuracy(attacks.PGD(epsilon=EPSILON), classifier(affine, trained.weights), trained)
    assert undefended <= 0.1
    assert plain >= 0.4, f"plain PGD is not fooled by {name}: {plain:.0%}"
    for attack in preset:
        left = robust_accuracy(attack, target, trained)
        assert left <= undefended + 0.1, f"{attack.name} leaves {left:.0%} of {name}"


@pytest.mark.parametrize(
    "name",
    ["rounding", *(pytest.param(name, marks=pytest.mark.slow) for name in ("saturated softmax", "stop-gradient"))],
)
def test_the_adaptive_preset_breaks_what_plain_pgd_does_not(trained, name):
    compare(trained, 0, name, attacks.Adaptive(epsilon=EPSILON))


def test_autoattack_breaks_a_random_switch_that_plain_pgd_does_not(trained):
    compare(trained, 0, "random switch", attacks.AutoAttack(epsilon=EPSILON))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["rounding", "saturated softmax", "stop-gradient", "random switch"])
def test_autoattack_and_the_adaptive_preset_break_every_strength(trained, name, seed):
    autoattack = [] if name == "saturated softmax" else [attacks.AutoAttack(epsilon=EPSILON)]
    compare(trained, seed, name, *autoattack, attacks.Adaptive(epsilon=EPSILON))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_autoattack_leaves_behind_a_saturated_softmax_is_an_upper_bound(trained, seed):
    # No gradient is left but within a hair of the boundary, and its gradient-free part sees a plain of equal losses.
    target = defences(trained.weights, seed)["saturated softmax"]
    with pytest.warns(UserWarning, match="say little"):
        found = attacks.verdict(attacks.AutoAttack(epsilon=EPSILON), target, *some(trained), KEY, batch_size=IMAGES)
    assert found.draw_accuracy < 0.5
    assert set(found.status.tolist()) == {FOOLED, UNRELIABLE}


def test_outputs_that_are_probabilities_are_warned_of(trained):
    target = defences(trained.weights, 0)["saturated softmax"]
    with pytest.warns(UserWarning, match="give logits"):
        attacks.verdict(
            attacks.PGD(epsilon=EPSILON),
            target,
            trained.images[:IMAGES],
            trained.labels[:IMAGES],
            KEY,
            batch_size=IMAGES,
        )
