"""What opacity hides is not seen by its neighbours, and grey images go through purifiers of colour."""

import jax
import numpy as np
import pytest

from jaxpurify.models import purifier
from jaxpurify.purifiers import channels
from jaxpurify.purifiers.apply import purify
from jaxpurify.purifiers.identity import Identity
from jaxpurify.purifiers.smoothing import GaussianSmoothing

RANDOM = np.random.default_rng(0)
ROWS, COLUMNS = np.mgrid[:33, :41]
DISC = (ROWS - 16) ** 2 + (COLUMNS - 20) ** 2 < 12**2


@purifier
class OfColour:
    """Move the channels round: takes three alone."""

    def __call__(self, images, key=None):
        assert images.shape[-1] == 3, "three channels alone"
        return images[..., [1, 2, 0]]


def typed(image, dtype):
    return image.astype(np.uint8) if dtype == np.uint8 else (image / 255).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("faint", [0, 1])
@pytest.mark.parametrize("colours", [1, 3])
def test_a_bright_shape_has_no_dark_fringe(dtype, faint, colours):
    image = np.zeros((33, 41, colours + 1))
    image[DISC] = 255
    image[~DISC, -1] = faint
    image = typed(image, dtype)
    purified = purify(GaussianSmoothing(sigma=2.0), image)
    np.testing.assert_array_equal(purified[..., -1], image[..., -1])
    least = 255 if dtype == np.uint8 else 1
    assert purified[DISC].min() >= least * (0.95 if faint else 0.9999)
    dark = purify(GaussianSmoothing(sigma=2.0), image[..., :colours])
    assert dark[DISC].min() < 0.8 * least  # the fringe that was


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5), (16, 16)])
def test_the_identity_keeps_hidden_colours(dtype, size):
    image = RANDOM.integers(0, 256, (*size, 4))
    image[..., 3] *= RANDOM.integers(0, 2, size)
    image[..., 3] //= RANDOM.integers(1, 40, size)
    image = typed(image, dtype)
    np.testing.assert_allclose(purify(Identity(), image), image, atol=0 if dtype == np.uint8 else 1e-6)


def test_opaque_images_are_shown_as_they_are():
    image = RANDOM.integers(0, 256, (6, 7, 4)).astype(np.uint8)
    image[..., 3] = 255
    (shown,) = channels.prepare(Identity(), [image], None)
    assert shown is image


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_grey_is_three_equal_channels_to_a_purifier_of_colour(dtype):
    image = typed(RANDOM.integers(0, 256, (6, 7, 1)), dtype)
    np.testing.assert_allclose(purify(OfColour(), image), image, atol=1e-6)
    opacity = typed(RANDOM.integers(16, 256, (6, 7, 1)), dtype)
    both = np.concatenate([image, opacity], axis=-1)
    np.testing.assert_allclose(purify(OfColour(), both), both, atol=1e-6)
    assert purify(OfColour(), image[..., 0]).shape == (6, 7)
    mixed = [image, np.repeat(image, 3, axis=-1)]
    assert [each.shape[-1] for each in purify(OfColour(), mixed)] == [1, 3]


def test_grey_stays_one_channel_where_the_purifier_takes_it():
    image = RANDOM.integers(0, 256, (6, 7, 1)).astype(np.uint8)
    (shown,) = channels.prepare(GaussianSmoothing(sigma=1.0), [image], None)
    assert shown.shape == (6, 7, 1)
    assert jax.numpy.ndim(shown) == 3
