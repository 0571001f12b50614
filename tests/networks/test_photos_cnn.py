import hashlib
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from flax import nnx

from jaxpurify import attacks, datasets, models
from jaxpurify.networks import photos_cnn, weights

SHIPPED = resources.files("jaxpurify.networks") / "shipped"


@pytest.fixture(scope="module")
def network():
    module = photos_cnn.PhotosCNN(rngs=nnx.Rngs(0))
    state = weights.parse((SHIPPED / "photos-cnn.safetensors").read_bytes(), "photos-cnn.safetensors")
    weights.load(module, state, table=weights.own_table(module), name="photos-cnn")
    return module


@pytest.fixture(scope="module")
def classifier(network):
    return models.classifier(network)


@pytest.fixture(scope="module")
def data():
    return datasets.load("photos", split="test")


def test_it_gets_the_test_patches_right(classifier, data):
    logits = np.asarray(jax.jit(lambda target, images: target(images))(classifier, data.images))
    assert (logits.argmax(axis=1) == data.labels).mean() >= 0.88


def test_it_falls_undefended(classifier, data):
    part = data.take(slice(128))
    result = attacks.PGD(norm="linf", epsilon=8 / 255, steps=40)(
        classifier, part.images, part.labels, jax.random.key(0)
    )
    assert np.abs(np.asarray(result.images) - part.images).max() <= 8 / 255 + 1e-6
    logits = np.asarray(classifier(result.images))
    assert (logits.argmax(axis=1) == part.labels).mean() <= 0.05


def test_the_card_is_that_of_the_weights():
    digest = hashlib.sha256((SHIPPED / "photos-cnn.safetensors").read_bytes()).hexdigest()
    card = (SHIPPED / "photos-cnn.md").read_text(encoding="utf-8")
    assert digest in card
    assert all(name in card for name in datasets.photos.CLASS_NAMES)


def test_it_is_small(network):
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param))) <= 150_000
    compiled = jax.jit(lambda images: network(images)).lower(jnp.zeros((1, 32, 32, 3))).compile()
    assert compiled.cost_analysis()["flops"] / 2 <= 1.6e6


@pytest.mark.parametrize("size", [(2, 2), (31, 33), (64, 20)])
def test_any_size_goes(network, size):
    assert network(jnp.full((2, *size, 3), 0.5)).shape == (2, 8)


def test_halving_filters_like_scipy():
    image = np.random.default_rng(0).random((6, 8))
    taps = np.outer(photos_cnn.BINOMIAL, photos_cnn.BINOMIAL)
    expected = scipy.signal.convolve2d(np.pad(image, 1, mode="edge"), taps, mode="valid")[::2, ::2]
    images = jnp.asarray(np.broadcast_to(image[None, :, :, None], (1, 6, 8, 3)), jnp.float32)
    halved = photos_cnn._halve(images)
    np.testing.assert_allclose(halved[0], np.broadcast_to(expected[..., None], (3, 4, 3)), atol=1e-6)


def test_it_normalises_inside(data):
    train = datasets.load("photos", split="train").images
    np.testing.assert_allclose(train.mean(axis=(0, 1, 2)), photos_cnn.MEAN, atol=0.01)
    np.testing.assert_allclose(train.std(axis=(0, 1, 2)).mean(), photos_cnn.DEVIATION, atol=0.01)
