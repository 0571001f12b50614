"""Pixel deflection: what moves, from where, how often; the wavelets are tested where they live."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import keys as jk
from jaxpurify.purifiers.pixel_deflection import PixelDeflection, _deflect
from jaxpurify.purifiers.wavelet import WaveletDenoising
from jaxpurify.testing import check_purifier

HEIGHT, WIDTH = 20, 30
KEYS = jk.per_image(jax.random.key(0), 256)
# Every pixel says where it is, exactly.
PLACES = np.stack(np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing="ij"), axis=-1) / 64
IMAGES = jnp.asarray(np.repeat(PLACES[None], 256, axis=0), jnp.float32)


@pytest.fixture(scope="module")
def moved():
    """Return where each pixel of 256 images came from, after 60 deflections in a window of 3."""
    return np.asarray(_deflect(IMAGES, KEYS, count=60, window=3) * 64).astype(int)


def test_pixels_come_whole_from_within_the_window(moved):
    np.testing.assert_array_equal(moved / 64, _deflect(IMAGES, KEYS, count=60, window=3))
    away = np.abs(moved - PLACES[None] * 64)
    assert away.max() == 3
    assert away[..., 0].max() == away[..., 1].max() == 3


def test_every_pixel_is_as_likely_to_be_replaced_however_near_the_border(moved):
    changed = (moved != PLACES[None] * 64).any(axis=-1)
    # Of 60 draws some meet, and those that draw their own place change nothing: 1 in 49, more at borders.
    expected = 1 - (1 - 1 / (HEIGHT * WIDTH)) ** 60
    inside = changed[:, 3:-3, 3:-3].mean()
    np.testing.assert_allclose(inside, expected * 48 / 49, rtol=0.05)
    np.testing.assert_allclose(changed[:, :3].mean(), inside, rtol=0.1)


def test_replacements_are_uniform_in_the_window(moved):
    inside = moved[:, 3:-3, 3:-3].reshape(-1, 2) - (PLACES[3:-3, 3:-3] * 64).reshape(1, -1, 2).repeat(256, 0).reshape(
        -1, 2
    )
    offsets = inside[(inside != 0).any(axis=1)].astype(int) + 3
    counts = np.bincount(offsets[:, 0] * 7 + offsets[:, 1], minlength=49)
    counts = np.delete(counts, 24)
    # The sum of squares has 47 degrees of freedom: 83 is exceeded once in a thousand.
    assert np.sum((counts - counts.mean()) ** 2) / counts.mean() < 83


def test_of_deflections_that_meet_the_last_one_wins():
    narrow = jnp.asarray(np.arange(3)[None, :, None, None] / 64, jnp.float32)
    count = 8
    for key in jk.per_image(jax.random.key(1), 20):
        draws = np.asarray(jax.random.uniform(key, (4, count)))
        expected = np.arange(3)
        for row, draw in zip((draws[0] * 3).astype(int), draws[2], strict=True):
            low, high = max(row - 1, 0), min(row + 1, 2)
            expected[row] = low + int(draw * (high + 1 - low))
        found = np.asarray(_deflect(narrow, key[None], count=count, window=1))[0, :, 0, 0] * 64
        np.testing.assert_array_equal(found, expected)


def test_the_gradient_of_a_pixel_is_that_of_all_that_took_its_value(moved):
    weights = np.random.default_rng(0).normal(size=(4, HEIGHT, WIDTH, 2)).astype(np.float32)
    slopes = jax.grad(lambda x: (_deflect(x, KEYS[:4], count=60, window=3) * weights).sum())(IMAGES[:4])
    expected = np.zeros_like(weights)
    for image in range(4):
        origin = moved[image]
        np.add.at(expected[image], (origin[..., 0], origin[..., 1]), weights[image])
    np.testing.assert_allclose(slopes, expected, atol=1e-6)


def test_wavelets_denoise_what_was_deflected():
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 32, 32, 3)), jnp.float32)
    deflected = _deflect(images, KEYS[:2], count=round(0.1 * 32 * 32), window=10)
    found = PixelDeflection(share=0.1, sigma=0.03)(images, KEYS[:2])
    np.testing.assert_allclose(found, WaveletDenoising(sigma=0.03)(deflected), atol=1e-6)


def test_the_papers_count_of_224_pixels_is_200():
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 224, 224, 1)), jnp.float32)
    changed = np.asarray(PixelDeflection(sigma=0.0)(image, KEYS[:1]) != image).sum()
    assert 190 < changed <= 200


@pytest.mark.slow
def test_it_keeps_the_contract_without_wavelets():
    check_purifier(PixelDeflection(sigma=0.0, share=0.2, window=2), size=(8, 9), channels=1)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(31, 45), (32, 32), (1, 7)])
def test_it_keeps_the_contract(size):
    check_purifier(PixelDeflection(share=0.05), size=size)


@pytest.mark.slow
def test_it_keeps_the_contract_in_float64(x64):
    check_purifier(PixelDeflection(share=0.05), size=(16, 18))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"sigma": -1.0}, "sigma must be .* got -1.0"),
        ({"share": 0.0}, "share must be above 0 and at most 1, got 0.0"),
        ({"window": 0}, "window must be an integer of at least 1, got 0"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(field, message):
    with pytest.raises(ValueError, match=message):
        PixelDeflection(**field)
