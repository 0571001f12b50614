"""An attack nests in a jitted training step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxpurify import attacks
from jaxpurify.models import classifier
from jaxpurify.networks import Conv


class Network(nnx.Module):
    def __init__(self, rngs):
        self.first = Conv(3, 8, 3, rngs=rngs)
        self.second = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, images):
        features = nnx.relu(self.first(images - 0.5))
        return self.second(10 * features.mean(axis=(1, 2)))


def cross_entropy(model, images, labels):
    return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()


@nnx.jit
def adversarial_step(model, optimizer, images, labels, key):
    attack = attacks.PGD(epsilon=8 / 255, steps=3)
    attacked = attack(classifier(model), images, labels, key)
    loss, gradients = nnx.value_and_grad(cross_entropy)(model, attacked.images, labels)
    optimizer.update(model, gradients)
    return loss, attacked


@pytest.mark.usefixtures("lenient")  # Optax's and Flax's own steps do not pass strict promotion
def test_adversarial_training_lowers_the_robust_loss():
    random = np.random.default_rng(0)
    labels = np.arange(32) % 2
    stripes = np.where(np.arange(8) % 2, 0.1, -0.1)  # across or along, which one convolution tells apart
    patterns = np.stack([np.tile(stripes, (8, 1)), np.tile(stripes, (8, 1)).T])[labels]
    images = np.float32(0.5 + patterns[..., None] + 0.05 * random.normal(size=(32, 8, 8, 3))).clip(0, 1)
    model = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.02), wrt=nnx.Param)

    outputs = [
        adversarial_step(
            model, optimizer, jnp.asarray(images), jnp.asarray(labels), jax.random.fold_in(jax.random.key(0), n)
        )
        for n in range(30)
    ]
    losses = np.array([loss for loss, _ in outputs])
    assert losses[-5:].mean() < 0.5 * losses[:5].mean()
    attacked = outputs[-1][1]
    assert attacked.norm.max() <= 8 / 255 + 1e-6
    assert attacked.success.mean() < 0.1
    after = attacks.verdict(attacks.PGD(epsilon=8 / 255, steps=3), classifier(model), images, labels, jax.random.key(9))
    assert after.robust_accuracy > 0.9
