"""JPEG against Pillow, which writes and reads real files with libjpeg-turbo."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxpurify.testing import check_gradient
from jaxpurify.transforms.jpeg import SUBSAMPLINGS, jpeg, quantisation_tables, smooth_jpeg

QUALITIES = (30, 75, 95)


@pytest.fixture(scope="module")
def photograph():
    """One photograph with saturated and textured parts, uint8."""
    from skimage import data

    return data.astronaut()[None, 10:213, 150:313]


def file(image, quality, subsampling):
    written = io.BytesIO()
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    picture.save(written, "JPEG", quality=quality, subsampling=subsampling)
    return Image.open(written)


def pillow(images, quality, subsampling="4:2:0"):
    return np.stack([np.asarray(file(image, quality, subsampling)).reshape(image.shape) for image in images])


def levels(images):
    return np.rint(np.asarray(images) * 255).astype(int)


def unit(images):
    return jnp.asarray(images, jnp.float32) / 255


def shares(images, expected):
    """Return which share of pixels is equal, and which within one level."""
    difference = np.abs(levels(images) - expected.astype(int))
    return np.mean(difference == 0), np.mean(difference <= 1)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("size", [(203, 163), (31, 45)])
def test_every_pixel_of_a_photograph_is_pillows(photograph, size, subsampling):
    images = photograph[:, : size[0], : size[1]]
    for quality in (*QUALITIES, 1, 49, 50, 100):
        purified = jpeg(unit(images), quality=float(quality), subsampling=subsampling)
        np.testing.assert_array_equal(levels(purified), pillow(images, quality, subsampling))


@pytest.mark.slow
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_every_pixel_of_imagenet_photographs_is_pillows(real_data, subsampling):
    paths = sorted((real_data / "imagenet" / "images").glob("*.png"))[:32]
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    for quality in QUALITIES:
        purified = jpeg(unit(images), quality=float(quality), subsampling=subsampling)
        np.testing.assert_array_equal(levels(purified), pillow(images, quality, subsampling))


# Colour at a width of 2 or less is repeated, not interpolated; 9 and 17 begin a new block; 6 × 10 ends within one.
@pytest.mark.parametrize("size", [(1, 1), (5, 4), (6, 10), pytest.param((9, 17), marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "subsampling",
    ["4:2:0", pytest.param("4:2:2", marks=pytest.mark.slow), pytest.param("4:4:4", marks=pytest.mark.slow)],
)
def test_every_pixel_of_a_small_image_is_pillows(photograph, size, subsampling):
    images = np.concatenate([photograph[:, y : y + size[0], y : y + size[1]] for y in (0, 40, 80, 120)])
    for quality in (5, 75):
        purified = jpeg(unit(images), quality=float(quality), subsampling=subsampling)
        np.testing.assert_array_equal(levels(purified), pillow(images, quality, subsampling))


def test_noise_at_the_worst_quality_neither_overflows_nor_wraps():
    images = 255 * np.random.default_rng(0).integers(0, 2, (4, 31, 45, 3), np.uint8)
    np.testing.assert_array_equal(levels(jpeg(unit(images), quality=1.0)), pillow(images, 1))


def test_every_pixel_of_a_grey_image_is_pillows(photograph):
    images = photograph[:, :31, :45, :1]
    for quality in QUALITIES:
        for subsampling in SUBSAMPLINGS:
            purified = jpeg(unit(images), quality=float(quality), subsampling=subsampling)
            np.testing.assert_array_equal(levels(purified), pillow(images, quality))


def test_tables_are_those_in_pillows_files(photograph):
    tables = jax.jit(quantisation_tables)
    for quality in range(1, 101):
        written = file(photograph[0, :8, :8], quality, "4:2:0").quantization
        for ours, theirs in zip(tables(jnp.float32(quality)), (written[0], written[1]), strict=True):
            np.testing.assert_array_equal(np.ravel(ours), theirs)


def test_values_are_rounded_to_8_bits_first_and_come_out_as_such(photograph):
    images = unit(photograph[:, :31, :45])
    moved = images + 0.4 / 255 * np.random.default_rng(0).uniform(-1, 1, images.shape).astype(np.float32)
    purified = jpeg(images)
    np.testing.assert_array_equal(jpeg(moved), purified)
    np.testing.assert_allclose(purified, levels(purified) / 255, atol=1e-7)


def test_a_traced_quality_gives_what_a_given_one_gives(photograph):
    images = unit(photograph[:, :31, :45])
    swept = jax.jit(jax.vmap(lambda quality: jpeg(images, quality=quality)))(jnp.asarray(QUALITIES, jnp.float32))
    for purified, quality in zip(swept, QUALITIES, strict=True):
        np.testing.assert_array_equal(purified, jpeg(images, quality=quality))


def test_float64_stays_and_is_the_same(photograph, x64):
    images = photograph[:, :31, :45]
    purified = jpeg(jnp.asarray(images / 255))
    assert purified.dtype == jnp.float64
    np.testing.assert_array_equal(levels(purified), pillow(images, 75))


def test_nan_is_not_hidden(photograph):
    images = unit(photograph[:, :31, :45]).at[0, 3, 4, 1].set(jnp.nan)
    assert np.isnan(jpeg(images)[0, 3, 4, 1])
    assert np.isnan(smooth_jpeg(images)[0, 3, 4, 1])


def test_the_exact_gradient_is_zero(photograph):
    images = unit(photograph[:, :31, :45])
    gradients = jax.grad(lambda x, q: jpeg(x, quality=q).sum(), argnums=(0, 1))(images, 75.0)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_the_smooth_codec_is_close_to_pillow(photograph, subsampling):
    images = photograph[:, :31, :45]
    for quality in QUALITIES:
        purified = jnp.clip(smooth_jpeg(unit(images), quality=float(quality), subsampling=subsampling), 0, 1)
        assert shares(purified, pillow(images, quality, subsampling))[1] >= 0.94


@pytest.mark.parametrize("subsampling", ["4:2:0", pytest.param("4:2:2", marks=pytest.mark.slow)])
def test_going_straight_through_roundings_is_the_gradient_without_them(photograph, subsampling, x64):
    images = jnp.asarray(photograph[:, 40:51, 40:61] / 255)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=images.shape))

    def slope(rounding):
        def value(images):
            return jnp.sum(weights * smooth_jpeg(images, subsampling=subsampling, rounding=rounding))

        return jax.jit(jax.grad(value))(images)

    np.testing.assert_allclose(slope(True), slope(False), atol=1e-12)
    check_gradient(lambda x: smooth_jpeg(x, subsampling=subsampling, rounding=False), images, tolerance=1e-7)


def test_without_rounding_4_4_4_changes_nothing_much(photograph, x64):
    # The constants of the transform are rounded to 13 bits, those of colour to five digits.
    images = jnp.asarray(photograph[:, 40:56, 40:61] / 255)
    np.testing.assert_allclose(smooth_jpeg(images, subsampling="4:4:4", rounding=False), images, atol=1e-3)


def test_the_gradient_of_quality_is_how_rounding_errors_grow_with_the_steps(x64):
    # One grey block of a single level: its DC coefficient is 8 (level − 128) and the only one. Quality 50 has the
    # table's own steps, 16 first, and around it d(steps) = −0.02 · 16 d(quality).
    level = 133.0
    images = jnp.full((1, 8, 8, 1), level / 255)
    coefficient, step = 8 * (level - 128), 16.0
    error = np.floor(coefficient / step + 0.5) - coefficient / step
    expected = error / 8 * (-0.02 * step) / 255
    slope = jax.grad(lambda quality: smooth_jpeg(images, quality=quality)[0, 3, 3, 0])(50.0)
    np.testing.assert_allclose(slope, expected, rtol=1e-3)


@pytest.mark.parametrize("function", [jpeg, smooth_jpeg])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 0}, "quality must be from 1 to 100, got 0: libjpeg's own default is 75"),
        ({"quality": 101.0}, "quality must be from 1 to 100, got 101.0"),
        ({"quality": float("nan")}, "quality must be from 1 to 100, got nan"),
        ({"quality": np.ones(3)}, r"quality must be a scalar, got shape \(3,\): several values\? use sweep"),
        ({"subsampling": "4:1:1"}, "subsampling must be one of 4:4:4, 4:2:2, 4:2:0, got '4:1:1'"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(function, options, message):
    with pytest.raises(ValueError, match=message):
        function(jnp.zeros((1, 8, 8, 3)), **options)


def test_images_of_two_channels_are_refused():
    with pytest.raises(ValueError, match=r"JPEG takes images of 1 or 3 channels, got 2, in shape \(1, 8, 8, 2\)"):
        jpeg(jnp.zeros((1, 8, 8, 2)))
