"""Wavelet denoising against scikit-image, and against a second implementation of the paper's convention."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pywt

from jaxpurify.datasets.loading import load
from jaxpurify.models import sweep
from jaxpurify.purifiers.wavelet import WaveletDenoising
from jaxpurify.testing import check_gradient, check_purifier

purify = jax.jit(lambda purifier, images: purifier(images))


@functools.cache
def noisy_photos(height=31, width=32):
    photos = np.asarray(load("photos", split="test", limit=2).images)[:, :height, :width]
    noise = np.random.default_rng(0).normal(0, 0.04, photos.shape)
    return (0.1 + 0.8 * photos + noise).clip(0, 1).astype(np.float32)


def by_scikit_image(images, *, sigma, wavelet="haar", rule="bayes", threshold="soft", colour="ycbcr"):
    from skimage.restoration import denoise_wavelet

    denoised = [
        denoise_wavelet(
            image if image.shape[2] > 1 else image[..., 0],
            sigma=sigma,
            wavelet=wavelet,
            mode=threshold,
            method={"bayes": "BayesShrink", "visu": "VisuShrink"}[rule],
            convert2ycbcr=colour == "ycbcr" and image.shape[2] > 1,
            rescale_sigma=True,
            channel_axis=-1 if image.shape[2] > 1 else None,
        ).reshape(image.shape)
        for image in np.asarray(images, np.float64)
    ]
    return np.clip(denoised, 0, 1)


def by_hand(images, *, sigma, levels):
    """The paper's convention, written once more in NumPy: stretch YCbCr to [0, 1], shrink, stretch back."""
    matrix = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
    denoised = []
    for image in np.asarray(images, np.float64):
        channels = image @ matrix.T
        for number in range(3):
            channel = channels[..., number]
            low, high = channel.min(), channel.max()
            approximation, *details = pywt.wavedec2((channel - low) / (high - low), "db1", level=levels)
            shrunk = [approximation]
            for bands in details:
                limits = [sigma**2 / np.sqrt(max(np.mean(d**2) - sigma**2, 2**-52)) for d in bands]
                shrunk.append(tuple(pywt.threshold(d, t, "soft") for d, t in zip(bands, limits, strict=True)))
            rebuilt = pywt.waverec2(shrunk, "db1")[: image.shape[0], : image.shape[1]]
            channels[..., number] = low + (high - low) * rebuilt
        denoised.append(channels @ np.linalg.inv(matrix).T)
    return np.clip(denoised, 0, 1)


@pytest.mark.parametrize("sigma", [0.02, 0.04, 0.2])
def test_the_papers_convention_equals_a_second_implementation(sigma):
    images = noisy_photos()
    for levels in (1, 2, 3):
        purified = purify(WaveletDenoising(sigma=sigma, levels=levels), images)
        expected = by_hand(images, sigma=sigma, levels=levels)
        assert np.abs(expected - images).max() > 0.002
        np.testing.assert_allclose(purified, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("rule", "threshold", "colour"),
    list(itertools.product(("bayes", "visu"), ("soft", "hard"), ("ycbcr", "rgb"))),
)
def test_the_image_convention_equals_scikit_image(rule, threshold, colour):
    images, options = noisy_photos(), {"rule": rule, "threshold": threshold, "colour": colour}
    expected = by_scikit_image(images, sigma=0.05, **options)
    assert np.abs(expected - images).max() > 0.05
    purified = purify(WaveletDenoising(sigma=0.05, convention="image", **options), images)
    np.testing.assert_allclose(purified, expected, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:Wavelet thresholding was designed")
@pytest.mark.parametrize("wavelet", ["db4", "bior2.2"])
def test_other_wavelets_equal_scikit_image(wavelet):
    images = noisy_photos()
    purified = purify(WaveletDenoising(sigma=0.05, wavelet=wavelet, convention="image"), images)
    expected = by_scikit_image(images, sigma=0.05, wavelet=wavelet)
    np.testing.assert_allclose(purified, expected, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Wavelet thresholding was designed")
@pytest.mark.parametrize("wavelet", ["sym8", "coif1", "rbio3.1", "db20"])
@pytest.mark.parametrize(("rule", "colour"), [("bayes", "rgb"), ("visu", "ycbcr")])
def test_all_families_equal_scikit_image(wavelet, rule, colour):
    options = {"wavelet": wavelet, "rule": rule, "colour": colour}
    purified = purify(WaveletDenoising(sigma=0.05, convention="image", **options), noisy_photos())
    expected = by_scikit_image(noisy_photos(), sigma=0.05, **options)
    np.testing.assert_allclose(purified, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("colour", ["ycbcr", "rgb"])
def test_the_blind_estimate_is_scikit_images(colour):
    # Away from black and white, where clipping makes coefficients of exactly zero, which scikit-image leaves out.
    images = np.random.default_rng(0).uniform(0.2, 0.8, (2, 31, 24, 3)).astype(np.float32)
    expected = by_scikit_image(images, sigma=None, colour=colour, rule="visu")
    purified = purify(WaveletDenoising(sigma=None, convention="image", colour=colour, rule="visu"), images)
    np.testing.assert_allclose(purified, expected, atol=1e-5, rtol=0)


def test_blind_conventions_agree_and_leave_no_leaf():
    images = noisy_photos()
    normalised, image = (WaveletDenoising(sigma=None, convention=name) for name in ("normalised", "image"))
    assert jax.tree.leaves(normalised) == []
    np.testing.assert_allclose(purify(normalised, images), purify(image, images), atol=1e-6)


@pytest.mark.parametrize("colour", ["ycbcr", "rgb"])
def test_a_grey_image_is_one_channel_whatever_the_colour(colour):
    images = noisy_photos()[..., :1]
    purified = purify(WaveletDenoising(sigma=0.05, convention="image", colour=colour), images)
    np.testing.assert_allclose(purified, by_scikit_image(images, sigma=0.05), atol=1e-5, rtol=0)


def test_no_noise_changes_no_bit_and_no_gradient():
    images = jnp.asarray(noisy_photos())
    purified, pull = jax.vjp(lambda x: purify(WaveletDenoising(sigma=0.0), x), images)
    np.testing.assert_array_equal(purified, images)
    np.testing.assert_allclose(pull(images)[0], images, atol=1e-6)


def test_the_normalised_convention_does_not_see_the_contrast():
    images = jnp.asarray(noisy_photos())
    faded = 0.25 + 0.5 * images
    purifier = WaveletDenoising(sigma=0.04)
    np.testing.assert_allclose(purify(purifier, faded), 0.25 + 0.5 * purify(purifier, images), atol=2e-6)


def test_sigma_is_its_leaf_and_compiles_once():
    assert jax.tree.leaves(WaveletDenoising(sigma=0.03)) == [0.03]
    images = jnp.asarray(noisy_photos())
    before = purify._cache_size()
    one_by_one = [purify(WaveletDenoising(sigma=sigma), images) for sigma in (0.01, 0.02, 0.04)]
    assert purify._cache_size() <= before + 1
    swept = sweep(WaveletDenoising(), sigma=jnp.array([0.01, 0.02, 0.04]))
    np.testing.assert_allclose(jax.vmap(lambda p: p(images))(swept), jnp.stack(one_by_one), atol=1e-6)


@pytest.mark.parametrize(("size", "levels"), [(299, 5), (224, 4), (32, 2), (8, 1)])
def test_the_levels_are_the_papers(size, levels):
    images = jnp.zeros((1, size, size, 1))

    def bands(purifier):
        return str(jax.make_jaxpr(purifier)(images)).count("name=_haar_merge")

    assert bands(WaveletDenoising()) == bands(WaveletDenoising(levels=levels)) == levels


@pytest.mark.parametrize(
    "options",
    [
        {"sigma": 0.1},
        {"sigma": None},
        {"sigma": 0.1, "convention": "image", "rule": "visu", "colour": "rgb", "threshold": "garrote"},
    ],
    ids=["paper", "blind", "garrote"],
)
def test_gradients_equal_finite_differences(options, x64):
    images = jnp.asarray(np.random.default_rng(3).uniform(0.2, 0.8, (1, 9, 10, 3)))
    sigma = options.pop("sigma")
    inputs = {"images": images} if sigma is None else {"images": images, "sigma": jnp.asarray(sigma)}

    def function(inputs):
        return WaveletDenoising(sigma=inputs.get("sigma"), **options)(inputs["images"])

    check_gradient(function, inputs, step=1e-7, tolerance=1e-5)


VARIANTS = {
    "blind": {"sigma": None, "wavelet": "db2"},
    "garrote": {"sigma": 0.1, "convention": "image", "rule": "visu", "threshold": "garrote", "colour": "rgb"},
}


@pytest.mark.parametrize("name", [pytest.param("blind", marks=pytest.mark.slow), "garrote"])
def test_it_keeps_the_contract(name):
    check_purifier(WaveletDenoising(**VARIANTS[name]))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, *VARIANTS.values()], ids=["paper", *VARIANTS])
@pytest.mark.parametrize("size", [(32, 32), (1, 7), (2, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_keeps_the_contract_at_every_size(options, size, channels):
    check_purifier(WaveletDenoising(**options), size=size, channels=channels)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_it_keeps_the_contract_in_float64(channels, x64):
    check_purifier(WaveletDenoising(), channels=channels)
    check_purifier(WaveletDenoising(sigma=None), channels=channels, size=(1, 7))


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ({"sigma": -0.1}, "sigma must be a finite number of at least 0, or None for a blind estimate, got -0.1"),
        ({"wavelet": "db99"}, "wavelet must be one of PyWavelets' families"),
        ({"levels": 0}, "levels must be an integer of at least 1, or None for the paper's rule, got 0"),
        ({"rule": "sure"}, "rule must be one of bayes, visu, got 'sure'"),
        ({"threshold": "firm"}, "threshold must be one of soft, hard, garrote, got 'firm'"),
        ({"colour": "hsv"}, "colour must be one of ycbcr, rgb, got 'hsv'"),
        ({"convention": "none"}, "convention must be one of normalised, image, got 'none'"),
        ({"extension": "zero"}, "extension must be one of symmetric, periodic, periodization, got 'zero'"),
    ],
)
def test_a_person_cannot_construct_nonsense(field, sentence):
    with pytest.raises(ValueError, match=sentence):
        WaveletDenoising(**field)


def test_images_too_small_for_the_levels_are_refused_before_anything_runs():
    purifier = WaveletDenoising(levels=4, wavelet="db4")
    with pytest.raises(ValueError, match="levels must be at most 2 for an image of 32 × 45 pixels"):
        jax.eval_shape(purifier, jax.ShapeDtypeStruct((1, 32, 45, 3), jnp.float32))


def test_two_channels_are_no_colour():
    with pytest.raises(ValueError, match="must have 3 channels"):
        WaveletDenoising()(jnp.zeros((1, 8, 8, 2)))
