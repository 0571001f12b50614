import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from jaxpurify.images import read
from jaxpurify.metrics import luma_psnr, psnr, ssim

METRICS = (psnr, luma_psnr, ssim)


@pytest.fixture(scope="module")
def pair():
    """Smooth images and what noise, from weak to strong, makes of them; the last is the same."""
    random = np.random.default_rng(0)
    clean = gaussian_filter(random.uniform(size=(4, 24, 19, 3)), (0, 2, 2, 0))
    clean = (clean - clean.min()) / np.ptp(clean)
    noisy = clean + np.array([0.01, 0.1, 0.5, 0]).reshape(4, 1, 1, 1) * random.normal(size=clean.shape)
    return np.clip(noisy, 0, 1).astype(np.float32), clean.astype(np.float32)


def test_psnr_is_that_of_scikit_image(pair):
    images, reference = (each[:3] for each in pair)
    expected = [
        peak_signal_noise_ratio(theirs, ours, data_range=1) for ours, theirs in zip(images, reference, strict=True)
    ]
    values = psnr(*pair)
    np.testing.assert_allclose(values[:3], expected, rtol=1e-5)
    assert np.isposinf(values[3])


def test_psnr_has_its_closed_form_beyond_the_range_too():
    zeros = np.zeros((2, 3, 4, 1), np.float32)
    offsets = np.array([0.1, 2.0], np.float32).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(psnr(zeros + offsets, zeros), [20, -20 * np.log10(2)], rtol=1e-5)


def test_luma_psnr_is_that_of_scikit_images_luma(pair):
    images, reference = ((np.round(255 * each) / 255).astype(np.float64) for each in pair)
    lumas = rgb2ycbcr(images)[:3, 3:-3, 3:-3, 0], rgb2ycbcr(reference)[:3, 3:-3, 3:-3, 0]
    expected = [peak_signal_noise_ratio(theirs, ours, data_range=255) for ours, theirs in zip(*lumas, strict=True)]
    values = luma_psnr(*pair, shave=3)
    np.testing.assert_allclose(values[:3], expected, rtol=1e-5)
    assert np.isposinf(values[3])


def test_luma_psnr_has_the_peak_of_255_and_the_range_of_219():
    black, white = np.zeros((1, 4, 4, 3), np.float32), np.ones((1, 4, 4, 3), np.float32)
    np.testing.assert_allclose(luma_psnr(white, black), [20 * np.log10(255 / 219)], rtol=1e-4)
    # Less than half a step of 8 bits is no difference, and what is beyond white is white.
    assert np.isposinf(luma_psnr(white + 0.3, white))
    assert np.isposinf(luma_psnr(black + np.float32(0.49 / 255), black))
    assert np.isfinite(luma_psnr(black + np.float32(0.51 / 255), black))
    # Luma alone has the whole range.
    np.testing.assert_allclose(luma_psnr(white[..., :1], black[..., :1]), [0], atol=1e-6)


def test_shaving_leaves_out_the_border_and_nothing_else():
    reference = np.full((1, 6, 7, 3), 0.5, np.float32)
    border, inside = reference.copy(), reference.copy()
    border[0, :, :2] = border[0, :, -2:] = border[0, :2] = border[0, -2:] = 0
    inside[0, 2, 4] = 0
    assert np.isposinf(luma_psnr(border, reference, shave=2))
    assert np.isfinite(luma_psnr(inside, reference, shave=2))


def test_ssim_is_that_of_scikit_image(pair):
    images, reference = pair
    options = {
        "data_range": 1,
        "channel_axis": -1,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    expected = [
        structural_similarity(theirs.astype(np.float64), ours.astype(np.float64), **options)
        for ours, theirs in zip(images, reference, strict=True)
    ]
    np.testing.assert_allclose(ssim(images, reference), expected, atol=2e-6)
    assert min(expected) < 0.5


def test_ssim_of_flat_images_has_its_closed_form():
    """Without variance only the first factor is left."""
    first, second = (np.full((1, 11, 11, 1), value, np.float32) for value in (0.25, 0.75))
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    np.testing.assert_allclose(ssim(first, second), [expected], rtol=1e-4)


def test_float64_stays_and_all_are_compiled(pair, x64):
    images, reference = (jnp.asarray(each[:2], jnp.float64) for each in pair)
    for metric in METRICS:
        values = jax.jit(metric)(images, reference)
        assert (values.shape, values.dtype) == ((2,), np.float64)


def test_bad_arguments_are_refused(pair):
    images, reference = pair
    for metric in METRICS:
        with pytest.raises(ValueError, match="must have one shape and dtype, got \\(4, 24, 19, 3\\) float32 and"):
            metric(images, reference[:2])
        with pytest.raises(TypeError, match="reference must be float32"):
            metric(images, reference.astype(np.float16))
    with pytest.raises(ValueError, match="at least 11 rows and columns"):
        ssim(images[:, :10], reference[:, :10])
    with pytest.raises(ValueError, match="1 or 3 channels"):
        luma_psnr(images[..., :2], reference[..., :2])
    for shave in (-1, 10):
        with pytest.raises(ValueError, match=f"leave some of 24×19 between the borders, got {shave}"):
            luma_psnr(images, reference, shave=shave)


@pytest.mark.parametrize(("name", "published"), [("Set5", 33.66), pytest.param("Set14", 30.23, marks=pytest.mark.slow)])
def test_bicubic_interpolation_has_its_published_figure(real_data, name, published):
    """The figure that papers give bicubic ×2, such as Lim et al. 2017, table 2."""
    values = []
    for file in sorted((real_data / "superres" / name / "image_SRF_2").glob("*_HR.png")):
        reference = read(file)
        small = read(file.with_name(file.name.replace("HR", "LR"))).astype(np.float32)
        size = reference.shape[1::-1]
        planes = [Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC) for plane in np.moveaxis(small, 2, 0)]
        images = np.stack([np.asarray(plane) for plane in planes], axis=2) / 255
        values.append(luma_psnr(images[None], reference[None].astype(np.float32) / 255, shave=2))
    assert np.mean(values) == pytest.approx(published, abs=0.03)
