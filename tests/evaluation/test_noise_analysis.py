import jax
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

import jaxpurify as jp
from jaxpurify.evaluation import analyse_noise
from jaxpurify.networks import convert

SHAPE = (40, 32, 24, 3)
A = 8 / 255


def analysed(noise):
    """Analyse noise around grey, in float64: the figures are then those of the noise and not of its rounding."""
    grey = np.full(noise.shape, 0.5)
    return analyse_noise(grey, grey + noise)


def random(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def white():
    return random().uniform(-A, A, SHAPE)


def test_white_symmetric_noise_is_found_to_be_that(white):
    found = analysed(white)
    values = white.size
    assert (np.abs(found.mean) < 4 * found.standard_error).all()
    np.testing.assert_allclose(found.deviation, A / np.sqrt(3), rtol=0.02)
    np.testing.assert_allclose(found.skewness, 0, atol=4 * np.sqrt(6 / (values / 3)))
    assert found.distance < 2.0 / np.sqrt(values / 2)
    assert found.positive == pytest.approx(0.5, abs=0.01)
    assert found.positive + found.negative == pytest.approx(1, abs=0.002)
    beside = np.delete(found.autocorrelation.ravel(), found.autocorrelation.size // 2)
    assert np.abs(beside).max() < 6 / np.sqrt(values)
    np.testing.assert_allclose(found.spectrum / found.variance, 1, atol=0.2)
    assert found.band(0.0, 0.5) == pytest.approx(1, abs=0.02)


def test_shifted_noise_has_the_mean_and_the_distance_of_its_shift(white):
    found = analysed(white + A / 4)
    np.testing.assert_allclose(found.mean, A / 4, atol=4 * found.standard_error.max())
    # Uniform on (−3A/4, 5A/4): −n lies half of A further down, and the range is 2A.
    assert found.distance == pytest.approx(1 / 4, abs=0.01)
    assert found.positive == pytest.approx(5 / 8, abs=0.01)


def test_exponential_noise_is_skewed():
    noise = 0.02 * (random().exponential(size=SHAPE) - 1)
    found = analysed(noise)
    np.testing.assert_allclose(found.skewness, 2, atol=0.2)
    # The distance of n from −n: at t = 0⁺ of the closed form, P(n ≤ 0) − P(−n ≤ 0) = (1 − 1/e) − 1/e.
    assert found.distance == pytest.approx(1 - 2 / np.e, abs=0.01)
    assert analysed(-noise).skewness[0] == pytest.approx(-found.skewness[0])


def test_statistics_of_one_distribution_are_those_of_scipy():
    noise = random(1).gamma(3, 0.01, size=(9, 8, 7, 2)) * np.array([1, -0.5]) + 0.004
    found = analysed(noise)
    np.testing.assert_allclose(found.skewness, [stats.skew(noise[..., channel].ravel()) for channel in (0, 1)])
    expected = stats.ks_2samp(noise.ravel(), -noise.ravel()).statistic
    assert found.distance == pytest.approx(expected, abs=2e-3)
    np.testing.assert_allclose(found.standard_error, stats.sem(noise.mean(axis=(1, 2)), axis=0))
    np.testing.assert_allclose(found.mean, noise.mean(axis=(0, 1, 2)))


def test_float32_noise_at_the_bound_of_an_attack_is_symmetric():
    """Rounding scatters it around ±8/255: a distance taken value by value would be a quarter."""
    originals = random().uniform(0.2, 0.8, SHAPE).astype(np.float32)
    sign = np.where(np.arange(originals.size).reshape(SHAPE) % 2, 1, -1)
    found = analyse_noise(originals, originals + (sign * A).astype(np.float32))
    assert found.distance == 0
    assert (found.positive, found.negative) == (0.5, 0.5)


@pytest.mark.parametrize("sigma", [0.8, 1.5])
def test_blurred_noise_has_the_autocorrelation_of_its_kernel(sigma):
    """A Gaussian correlates with itself as a Gaussian √2 as wide."""
    noise = random().normal(size=(300, 48, 48, 1))
    noise = 0.1 * ndimage.gaussian_filter(noise, (0, sigma, sigma, 0), mode="wrap", truncate=6)
    found = analysed(noise)
    lags = np.arange(-8, 9)
    expected = np.exp(-(lags[:, None] ** 2 + lags[None, :] ** 2) / (4 * sigma**2))
    np.testing.assert_allclose(found.autocorrelation, expected, atol=0.03)
    # The power of the kernel; where little is left, what leaks from lower frequencies is more.
    expected = np.exp(-((2 * np.pi * found.frequencies * sigma) ** 2))
    kept = expected > 0.05
    np.testing.assert_allclose(
        found.spectrum[kept] / found.spectrum[kept].sum(), expected[kept] / expected[kept].sum(), atol=0.02
    )


def test_autocorrelation_is_the_sum_over_overlapping_pixels():
    noise = random().normal(size=(3, 5, 4, 2)) / 20
    found = analysed(noise).autocorrelation
    centred = noise - noise.mean(axis=(0, 1, 2))
    expected = np.empty((9, 7))
    for row in range(-4, 5):
        for column in range(-3, 4):
            first = centred[:, max(row, 0) : 5 + min(row, 0), max(column, 0) : 4 + min(column, 0)]
            second = centred[:, max(-row, 0) : 5 - max(row, 0), max(-column, 0) : 4 - max(column, 0)]
            expected[row + 4, column + 3] = (first * second).mean() / (centred**2).mean()
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(("axis", "size"), [(1, 32), (2, 24)])
def test_a_sinusoid_has_its_frequency_and_its_autocorrelation(axis, size):
    position = np.arange(size).reshape((-1,) + (1,) * (3 - axis))
    phase = np.linspace(0, 2 * np.pi, 40, endpoint=False).reshape(40, 1, 1, 1)
    noise = np.broadcast_to(0.02 * np.sin(2 * np.pi * position / 4 + phase), SHAPE)
    found = analysed(noise)
    assert found.frequencies[found.spectrum.argmax()] == 0.25
    assert np.isnan(found.band(0.49, 0.491))
    others = np.abs(found.frequencies - 0.25) > 1e-9
    assert found.spectrum[others].max() < 1e-12
    centre = found.autocorrelation.take(8, axis=2 - axis)
    np.testing.assert_allclose(centre, np.cos(np.pi / 2 * np.arange(-8, 9)), atol=1e-9)
    np.testing.assert_allclose(found.autocorrelation.take(8, axis=axis - 1), 1)


def test_power_of_white_noise_is_its_variance():
    """One pixel's noise has the same power at all frequencies: its square over the number of pixels, if not shared."""
    noise = np.zeros((2, 16, 16, 1))
    noise[0, 3, 5], noise[1, 8, 2] = 0.1, -0.1
    found = analysed(noise)
    np.testing.assert_allclose(found.spectrum, 0.1**2 / 256)
    assert found.variance == pytest.approx(0.1**2 / 256)
    assert (found.positive, found.negative) == (1 / 512, 1 / 512)


def test_the_summary_has_the_figures_in_steps_of_eight_bits():
    noise = np.repeat(random().choice([-A, A], (50, 16, 1, 3)), 16, axis=2)
    lines = analysed(noise + np.array([0, 1, 0]) / 255).summary().splitlines()
    assert lines[0] == "adversarial − original, 50 images of 16×16, in 1/255"
    assert [line.split()[0] for line in lines[2:5]] == ["red", "green", "blue"]
    assert float(lines[3].split()[1]) == pytest.approx(1, abs=1.5)
    assert float(lines[3].split()[3]) == pytest.approx(8, abs=0.1)
    assert "unchanged 0.0%" in lines[5]
    assert "beside 1.000" in lines[7]
    assert abs(float(lines[7].split("below ")[1].split(",")[0])) < 0.1


@pytest.mark.parametrize("shape", [(1, 9, 8, 1), (6, 16, 16, 3), (4, 2, 1, 2)])
def test_the_figure_has_four_panels_whatever_the_shape(shape):
    found = analysed(random().normal(size=shape) / 30)
    figure = found.figure()
    panels = [panel for panel in figure.axes if panel.get_title(loc="left")]
    assert len(panels) == 4
    mirrored = [patch.get_data().values for patch in panels[0].patches]
    np.testing.assert_allclose(mirrored[0], mirrored[1][::-1])
    assert mirrored[0].sum() == pytest.approx(100)
    assert "deviation" in found.summary()


def test_the_figure_becomes_a_picture(tmp_path, white):
    analysed(white).save_figure(tmp_path / "noise.png")
    with Image.open(tmp_path / "noise.png") as picture:
        assert min(picture.size) > 800


def test_bad_arguments_are_refused():
    images = np.full((2, 8, 8, 3), 0.5, np.float32)
    with pytest.raises(ValueError, match="shape of the originals, \\(2, 8, 8, 3\\), got \\(1, 8, 8, 3\\)"):
        analyse_noise(images, images[:1])
    with pytest.raises(ValueError, match="no noise to analyse"):
        analyse_noise(images, images)
    with pytest.raises(ValueError, match="must be finite"):
        analyse_noise(images, images + np.float32(np.nan))
    with pytest.raises(TypeError, match="adversarial must be float32"):
        analyse_noise(images, (255 * images).astype(np.uint8))


@pytest.mark.slow
def test_the_noise_of_an_attack_is_almost_of_mean_zero_and_symmetric(real_data, tmp_path):
    """As Cha et al. 2021 state, here of PGD on a CIFAR-10 classifier."""
    convert(real_data / "cifar10" / "resnet20.th", tmp_path / "a.safetensors")
    classifier = jp.networks.load_classifier("cifar-resnet20", weights=tmp_path / "a.safetensors")
    data = jp.datasets.load(str(real_data / "cifar10" / "test.npz")).take(slice(128))
    attack = jp.attacks.PGD(epsilon=A, steps=40)
    adversarial = jp.attacks.run(attack, classifier, data.images, data.labels, jax.random.key(0)).images
    found = analyse_noise(data.images, adversarial)
    print(found.summary())
    assert np.abs(found.mean).max() < 0.5 / 255
    assert np.abs(found.skewness).max() < 0.1
    assert found.distance < 0.02
