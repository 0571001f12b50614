"""Training blind-spot networks: what the network sees and what it is compared with, in both readings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from flax import nnx

from jaxpurify.networks.blind_spot import BlindSpotNetwork
from jaxpurify.training import BlindSpot
from jaxpurify.training.blind_spot import STEP

TASK = BlindSpot(width=4, layers=2, patch=16)
COUNT, KEY = 64, jax.random.key(5)


class Same(nnx.Module):
    """The identity, which lets through what a network sees."""

    def __init__(self):
        self.unused = nnx.Param(jnp.zeros(1))

    def __call__(self, images):
        return images


@pytest.fixture(scope="module")
def batch():
    source = TASK.prepare(np.random.default_rng(0).integers(0, 256, (4, 24, 30, 3), np.uint8))
    rows = np.arange(COUNT) % 4
    return jax.tree.map(jnp.asarray, TASK.batch(source, rows, np.random.default_rng(1)))


@pytest.fixture(scope="module")
def examples(batch):
    """What is seen, wanted and original, a reading, with the same key."""
    made = {}
    for seen in ("smoothed", "original"):
        for wanted in ("smoothed", "original"):
            task = dataclasses.replace(TASK, input=seen, target=wanted)
            made[seen, wanted] = tuple(np.asarray(each) for each in task._examples(batch, KEY, Same()))
    return made


def test_a_batch_is_of_patches(batch):
    assert (batch["images"].shape, batch["images"].dtype) == ((COUNT, 16, 16, 3), jnp.uint8)


def test_the_readings_share_their_draws_and_differ_in_what_they_show(batch, examples):
    original = np.asarray(batch["images"], np.float32) / 255
    smoothed, noisy = examples["smoothed", "original"][0], examples["original", "original"][0]
    for (seen, wanted), found in examples.items():
        np.testing.assert_array_equal(found[0], smoothed if seen == "smoothed" else noisy)
        np.testing.assert_allclose(found[1], smoothed if wanted == "smoothed" else original, atol=1e-7)
        np.testing.assert_allclose(found[2], original, atol=1e-7)


def test_what_is_smoothed_is_the_noisy_patch_under_a_gaussian_of_whole_passes(examples):
    """SciPy's Gaussian of n passes, each image with the number that the variance of its strength makes up."""
    smoothed, noisy = examples["smoothed", "original"][0], examples["original", "original"][0]
    most = round((TASK.smoothing / STEP) ** 2)
    passes = []
    for seen, image in zip(smoothed, noisy, strict=True):
        candidate = image.astype(np.float64)
        distances = [np.abs(candidate - seen).max()]
        for _ in range(most):
            for axis in (0, 1):
                candidate = scipy.ndimage.gaussian_filter1d(candidate, STEP, axis=axis, mode="reflect")
            distances.append(np.abs(candidate - seen).max())
        assert min(distances) < 1e-3, distances
        passes.append(int(np.argmin(distances)))
    # A quarter is left alone (and 1/8 × of the others rounds to nothing); the others reach up to the largest.
    assert 0.1 < np.mean([count == 0 for count in passes]) < 0.6
    assert max(passes) > most / 2
    assert len(set(passes)) > 5


def test_noise_is_gaussian_of_levels_up_to_the_largest_and_absent_from_some(examples):
    noise = examples["original", "original"][0] - examples["original", "original"][2]
    levels = noise.std(axis=(1, 2, 3))
    assert levels.max() < 1.15 * TASK.noise
    assert levels.max() > 0.7 * TASK.noise
    absent = np.abs(noise).max(axis=(1, 2, 3)) == 0
    assert 0.05 < absent.mean() < 0.5
    normal = (noise / np.where(absent, 1, levels)[:, None, None, None])[~absent].ravel()
    assert abs(normal.mean()) < 0.02
    assert np.mean(np.abs(normal) < 1) == pytest.approx(0.6827, abs=0.02)


@pytest.mark.parametrize("fields", [{"noise": 0.0, "smoothing": 0.0}, {"clean": 1.0, "plain": 1.0}])
def test_without_noise_and_smoothing_the_photograph_is_seen(batch, fields):
    seen, wanted, original = dataclasses.replace(TASK, **fields)._examples(batch, KEY, Same())
    np.testing.assert_allclose(seen, original, atol=1e-6)
    np.testing.assert_array_equal(wanted, original)


def test_the_loss_is_the_mean_squared_error_to_the_target(batch, examples):
    for (seen, wanted), (shown, target, original) in examples.items():
        task = dataclasses.replace(TASK, input=seen, target=wanted)
        losses, measures = task.loss(Same(), batch, KEY)
        np.testing.assert_allclose(losses, np.square(shown - target).mean(axis=(1, 2, 3)), rtol=1e-4, atol=1e-9)
        error = np.square(shown.astype(np.float64) - original).mean(axis=(1, 2, 3))
        noisy = error > 1e-6
        np.testing.assert_allclose(measures["psnr"][noisy], -10 * np.log10(error[noisy]), rtol=1e-3)
    panels = TASK.panels(Same(), batch, KEY)
    assert list(panels) == ["input", "network", "photograph"]


def test_other_keys_draw_other_examples(batch):
    first, second = (TASK._examples(batch, jax.random.key(seed), Same())[0] for seed in (0, 1))
    assert np.abs(first - second).max() > 0.01


def test_the_network_has_the_layers_and_width_asked_for():
    network = TASK.network(nnx.Rngs(0))
    assert isinstance(network, BlindSpotNetwork)
    assert (network.border, BlindSpot(width=4, border="zeros").network(nnx.Rngs(0)).border) == ("opposite", "zeros")
    assert network.receptive_field < 43 == BlindSpot(width=4).network(nnx.Rngs(0)).receptive_field


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"smoothing": -1.0}, "smoothing must be a finite number of at least 0, got -1.0"),
        ({"noise": 25.0}, "noise is in units of 1, expected at most 1, got 25.0: divide by 255"),
        ({"plain": 1.5}, "plain must be a share from 0 to 1, got 1.5"),
        ({"clean": -0.5}, "clean must be a share from 0 to 1, got -0.5"),
        ({"patch": 8}, "patch must be at least the receptive field of 8 layers, 43 pixels, got 8"),
    ],
)
def test_numbers_out_of_their_domain_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        BlindSpot(**fields)
