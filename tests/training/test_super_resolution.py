"""Training super-resolution networks: the pairs, the loss, and what is finished."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxpurify.images import resize
from jaxpurify.networks.edsr import EDSR
from jaxpurify.networks.sesr import SESR, CollapsedSESR
from jaxpurify.training import SuperResolution
from jaxpurify.training.pictures import reduced

TASK = SuperResolution(features=4, blocks=1, patch=8)
KEY = jax.random.key(0)
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 40, 36, 3), np.uint8)


@pytest.fixture(scope="module")
def batch():
    source = TASK.prepare(PICTURES)
    return jax.tree.map(jnp.asarray, TASK.batch(source, np.array([0, 2]), np.random.default_rng(1)))


def test_a_batch_is_of_low_and_high_patches(batch):
    assert {name: (values.shape, values.dtype) for name, values in batch.items()} == {
        "low": ((2, 8, 8, 3), jnp.uint8),
        "high": ((2, 16, 16, 3), jnp.uint8),
    }
    for low, high in zip(np.asarray(batch["low"]), np.asarray(batch["high"]), strict=True):
        assert np.abs(reduced(high, 2).astype(int) - low)[2:-2, 2:-2].max() <= 1


def test_what_is_small_is_the_picture_reduced():
    for low, high in TASK.prepare(PICTURES):
        np.testing.assert_array_equal(low, reduced(high, 2))
    assert len(SuperResolution(patch=8, reductions=(1, 2)).prepare(PICTURES)) == 6


def test_the_loss_is_the_mean_absolute_error(batch):
    """Of a network that is known: interpolation."""

    class Bicubic(nnx.Module):
        def __init__(self):
            self.unused = nnx.Param(jnp.zeros(1))

        def __call__(self, images):
            return resize(images, height=2 * images.shape[1], width=2 * images.shape[2])

    losses, measures = TASK.loss(Bicubic(), batch, KEY)
    low, high = (np.asarray(batch[name], np.float32) / 255 for name in ("low", "high"))
    enlarged = np.asarray(resize(jnp.asarray(low), height=16, width=16))
    np.testing.assert_allclose(losses, np.abs(enlarged - high).mean(axis=(1, 2, 3)), rtol=1e-5)
    expected = -10 * np.log10(np.square(enlarged - high).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(measures["psnr"], expected, rtol=1e-5)
    panels = TASK.panels(Bicubic(), batch, KEY)
    assert list(panels) == ["bicubic", "network", "photograph"]
    np.testing.assert_array_equal(panels["bicubic"], panels["network"])
    np.testing.assert_allclose(panels["photograph"], high, rtol=1e-6)


def test_a_finished_sesr_is_the_collapsed_one(batch):
    network = TASK.network(nnx.Rngs(0))
    assert isinstance(network, SESR)
    finished = TASK.finished(network)
    assert isinstance(finished, CollapsedSESR)
    images = batch["low"].astype(jnp.float32) / 255
    np.testing.assert_allclose(TASK.function(finished)(images), network(images), atol=1e-5)


def test_the_networks_are_those_named():
    sizes = {"features": 8, "blocks": 2}
    large = SuperResolution(network_name="edsr-large", scale=3, **sizes).network(nnx.Rngs(0))
    small = SuperResolution(network_name="edsr-baseline", **sizes).network(nnx.Rngs(0))
    assert isinstance(large, EDSR)
    assert (large.scale, small.scale) == (3, 2)
    assert (large.border, SuperResolution(border="zeros").network(nnx.Rngs(0)).border) == ("edge", "zeros")
    assert SuperResolution(network_name="edsr-baseline").finished(small) is small


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [({"scale": 5}, "scale must be 2, 3 or 4, got 5"), ({"patch": 4}, "patch must be at least 8 .* got 4")],
)
def test_numbers_out_of_their_domain_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        SuperResolution(**fields)


def test_a_network_name_that_is_not_known_is_refused():
    unchecked = object.__new__(SuperResolution)  # past the types that tests check and users do not
    object.__setattr__(unchecked, "network_name", "srcnn")
    with pytest.raises(ValueError, match="network_name must be one of sesr, edsr-baseline, edsr-large, got 'srcnn'"):
        SuperResolution.__post_init__(unchecked)


def test_a_patch_without_contrast_leaves_the_mean_of_psnr_finite():
    white = {"low": np.full((2, 8, 8, 3), 255, np.uint8), "high": np.full((2, 16, 16, 3), 255, np.uint8)}
    _, measures = TASK.loss(Doubling(), jax.tree.map(jnp.asarray, white), KEY)
    np.testing.assert_allclose(measures["psnr"], 100.0)


def test_the_loss_is_float32_where_the_network_is_bfloat16():
    class Half(Doubling):
        def __init__(self):
            self.weight = nnx.Param(jnp.ones((), jnp.bfloat16))

        def __call__(self, images):
            return jnp.zeros((*images.shape[:1], 16, 16, 3), images.dtype)

    high = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    losses, _ = TASK.loss(Half(), {"low": jnp.asarray(high[:, ::2, ::2]), "high": jnp.asarray(high)}, KEY)
    assert losses.dtype == np.float32
    np.testing.assert_allclose(losses, (high / 255).mean(axis=(1, 2, 3)), rtol=1e-6)


class Doubling(nnx.Module):
    def __init__(self):
        self.weight = nnx.Param(jnp.ones(()))

    def __call__(self, images):
        return images.repeat(2, axis=1).repeat(2, axis=2)
