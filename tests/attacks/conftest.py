from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxpurify.models import as_target, classifier


class Toy(NamedTuple):
    """A target with its images and labels, on the host."""

    target: Any
    images: np.ndarray
    labels: np.ndarray
    weights: Any
    apply: Any


def perceptron(weights, images):
    hidden = jnp.tanh(images.reshape(images.shape[0], -1) @ weights[0])
    return hidden @ weights[1]


def affine(weights, images):
    return images.reshape(images.shape[0], -1) @ weights[0] + weights[1].reshape(1, -1)


@pytest.fixture(scope="session")
def toy() -> Toy:
    """A perceptron of five classes that is right on all its images but the first, and that attacks fool on some."""
    random = np.random.default_rng(0)
    weights = (random.normal(size=(5 * 6 * 3, 12)) * 0.3, random.normal(size=(12, 5)))
    weights = tuple(np.float32(weight) for weight in weights)
    images = np.float32(random.uniform(size=(16, 5, 6, 3)))
    images[1], images[2] = np.round(images[1]), 1.0  # black and white pixels, where the box binds
    labels = np.asarray(jax.jit(perceptron)(weights, images).argmax(axis=1)).astype(np.int32)
    labels[0] = (labels[0] + 1) % 5
    return Toy(classifier(perceptron, weights), images, labels, weights, perceptron)


@pytest.fixture(scope="session")
def linear() -> Toy:
    """An affine model of two classes, the first of which has logit zero, so that its optimum is known."""
    random = np.random.default_rng(1)
    weights = np.stack([np.zeros(60), random.normal(size=60)], axis=1), np.array([0.0, 0.3])
    weights = tuple(np.float32(weight) for weight in weights)
    images = np.float32(random.uniform(size=(12, 4, 5, 3)))
    labels = np.asarray(affine(weights, images).argmax(axis=1)).astype(np.int32)
    return Toy(classifier(affine, weights), images, labels, weights, affine)


@pytest.fixture(scope="session")
def ramp() -> Toy:
    """The mean of each image: every step along the sign of the gradient raises it by exactly that step."""
    images = np.float32(np.random.default_rng(2).uniform(0.4, 0.6, size=(16, 4, 5, 3)))
    return Toy(as_target(_mean), images, images.mean(axis=(1, 2, 3)), (), _mean)


def _mean(images):
    return images.mean(axis=(1, 2, 3))


@pytest.fixture(scope="session")
def noisy() -> Toy:
    """A random affine model: one class's weights have their signs kept nine times in ten and turned otherwise."""
    random = np.random.default_rng(3)
    weight = np.float32(random.normal(size=(4, 5, 3)))
    images = np.float32(random.uniform(0.3, 0.7, size=(8, 4, 5, 3)))

    def apply(weights, images, key):
        def one(image, key):
            kept = jax.random.bernoulli(key, 0.7, image.shape)
            return (weights * jnp.where(kept, 1.0, -1.0) * (image - 0.5)).sum()

        second = jax.vmap(one)(images, key)
        return jnp.stack([jnp.zeros_like(second), second], axis=1)

    labels = np.asarray((weight * (images - 0.5)).sum(axis=(1, 2, 3)) > 0).astype(np.int32)
    return Toy(classifier(apply, weight, random=True), images, labels, weight, apply)


def _solve(point, weights, need, norm):
    """Solve the shortest step in float64 by a root of the growth in its multiplier."""
    weights, need = weights / np.abs(weights).max(), need / np.abs(weights).max()
    signs = np.sign(weights) * np.sign(need)
    room = np.where(signs > 0, 1 - point, point) * (weights != 0)
    speeds = np.ones_like(weights) if norm == "linf" else np.abs(weights)

    def missing(multiplier):
        return (np.abs(weights) * np.minimum(multiplier * speeds, room)).sum() - abs(need)

    high = 1.0
    while missing(high) < 0:
        if (high := 4 * high) > 1e12:
            return signs * room
    return signs * np.minimum(optimize.brentq(missing, 0, high, xtol=1e-300, rtol=1e-14) * speeds, room)


@pytest.fixture(scope="session")
def reference_step():
    """A reference in float64: ``(point, weights, need, norm)`` to the shortest step within [0, 1], and its length."""

    def solve(point, weights, need, norm):
        steps = _solve(point, weights, need, norm)
        return steps, np.abs(steps).max() if norm == "linf" else np.linalg.norm(steps)

    return solve


class Trained(NamedTuple):
    """Weights of a linear classifier, and images that it has not seen."""

    weights: np.ndarray
    images: np.ndarray
    labels: np.ndarray


@pytest.fixture(scope="session")
def trained() -> Trained:
    """Trained by least squares to tell four noisy patterns apart: logits are 20 (images - 0.5) @ weights."""
    random = np.random.default_rng(0)
    patterns = random.uniform(0.46, 0.54, size=(4, 16, 16, 3))

    def sample(count):
        labels = np.arange(count) % 4
        images = np.clip(patterns[labels] + random.normal(size=(count, 16, 16, 3)) * 0.12, 0, 1)
        return np.float32(images), labels.astype(np.int32)

    images, labels = sample(2000)
    pixels = images.reshape(len(images), -1) - 0.5
    gram = pixels.T @ pixels + 5 * np.eye(pixels.shape[1])
    weights = np.float32(np.linalg.solve(gram, pixels.T @ np.eye(4)[labels]))
    return Trained(weights, *sample(64))
