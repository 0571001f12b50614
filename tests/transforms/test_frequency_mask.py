"""Random masks in the frequency domain: the figures of the paper's code, and transforms by SciPy and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from jaxpurify.testing import check_gradient
from jaxpurify.transforms.frequency_mask import frequency_distance, frequency_mask, low_pass, random_frequency_mask

KEYS = jax.random.split(jax.random.key(0), 200)


def noise(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


@pytest.fixture(scope="module", params=["dct", "fft"])
def masks(request):
    """200 masks for images of 224 by 224 pixels, as entries of the full square of frequencies."""
    masks = np.asarray(frequency_mask(KEYS, height=224, width=224, transform=request.param))
    if request.param == "dct":
        return masks
    mirrored = np.roll(masks[:, ::-1, 1:-1], 1, axis=1)[..., ::-1]  # the negative frequencies that rfft2 leaves out
    return np.concatenate([masks, mirrored], axis=2)


def test_masks_are_zeros_and_ones(masks):
    assert masks.shape == (200, 224, 224)
    assert set(np.unique(masks)) == {0.0, 1.0}


def test_the_kept_share_is_the_papers(masks):
    assert 0.54 <= masks.mean() <= 0.59


def test_the_share_that_is_always_kept_is_the_papers(masks):
    assert 0.29 <= masks.all(axis=0).mean() <= 0.40  # within the smallest radius drawn


def test_the_chance_of_high_frequencies_falls_with_their_distance():
    distance = np.hypot(*np.mgrid[:32, :48])
    masks = np.asarray(frequency_mask(jax.random.split(jax.random.key(1), 4000), height=32, width=48))
    beyond = distance > 0.50 * np.hypot(32, 48)
    expected = 1 - distance / distance.max()
    assert np.abs(masks.mean(axis=0) - expected)[beyond].max() < 5 * np.sqrt(0.25 / 4000)
    assert masks[:, distance <= 0.43 * np.hypot(32, 48)].all()


def test_each_radius_lies_between_the_two():
    distance = frequency_distance(32, 32)
    masks = np.asarray(frequency_mask(KEYS, height=32, width=32, min_radius=0.2, max_radius=0.6))
    radii = np.array([distance[mask == 0].min() for mask in masks])
    assert radii.min() > 0.2
    assert radii.max() > 0.5
    assert np.abs(np.sort(radii) - np.linspace(0.2, 0.6, 200)).max() < 0.1


@pytest.mark.parametrize("size", [(7, 9), (8, 6)])
def test_a_frequency_and_its_negative_share_their_draw(size):
    height, width = size
    half = np.asarray(
        frequency_mask(KEYS[:8], height=height, width=width, min_radius=0.01, max_radius=0.01, transform="fft")
    )
    alone = [0, width // 2] if width % 2 == 0 else [0]
    for column in alone:
        np.testing.assert_array_equal(half[:, 1:, column], half[:, :0:-1, column])
    assert 0 < half[:, :, 0].mean() < 1


def test_equal_distances_are_equal_spatial_frequencies():
    cosines, periods = frequency_distance(12, 16), frequency_distance(12, 16, transform="fft")
    np.testing.assert_allclose(cosines[::2, ::2][:6], periods[:6, :8])
    np.testing.assert_allclose(periods[1:6], periods[:6:-1])


@pytest.mark.parametrize("size", [(31, 45), (16, 12)])
def test_the_mask_multiplies_scipys_coefficients(size):
    images = noise((3, *size, 3))
    masks = np.asarray(frequency_mask(KEYS[:3], height=size[0], width=size[1]))
    coefficients = scipy.fft.dctn(np.asarray(images, np.float64), axes=(1, 2), norm="ortho") * masks[..., None]
    expected = scipy.fft.idctn(coefficients, axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(random_frequency_mask(images, KEYS[:3]), expected, atol=1e-5)


def test_the_fourier_mask_multiplies_numpys_coefficients():
    images = noise((3, 31, 45, 3))
    masks = np.asarray(frequency_mask(KEYS[:3], height=31, width=45, transform="fft"))
    expected = np.fft.irfft2(np.fft.rfft2(images, axes=(1, 2)) * masks[..., None], s=(31, 45), axes=(1, 2))
    np.testing.assert_allclose(random_frequency_mask(images, KEYS[:3], transform="fft"), expected, atol=1e-5)


def test_image_i_is_unchanged_by_its_batch_mates():
    images, others = noise((4, 31, 45, 3)), noise((4, 31, 45, 3), seed=1)
    masked = random_frequency_mask(images, KEYS[:4])
    mixed = random_frequency_mask(others.at[2].set(images[2]), jnp.stack([KEYS[7], KEYS[8], KEYS[2], KEYS[9]]))
    np.testing.assert_array_equal(mixed[2], masked[2])
    assert np.abs(np.asarray(mixed[1] - masked[1])).max() > 0.1


def test_one_mask_for_the_batch_is_the_first_images():
    image = noise((1, 16, 16, 3))
    batch = jnp.tile(image, (3, 1, 1, 1))
    shared = random_frequency_mask(batch, KEYS[:3], per_image=False)
    np.testing.assert_array_equal(shared[1], shared[0])
    np.testing.assert_allclose(shared[0], random_frequency_mask(image, KEYS[:1])[0], atol=1e-6)
    own = random_frequency_mask(batch, KEYS[:3])
    assert np.abs(np.asarray(own[1] - own[0])).max() > 0.01


@pytest.mark.parametrize("size", [(7, 10), (3, 5), (1, 4)])
def test_feature_maps_of_any_size_and_number_of_channels_are_masked(size):
    features = 3 * jax.random.normal(jax.random.key(2), (2, *size, 64))
    masked = random_frequency_mask(features, jax.random.key(3))
    channel = random_frequency_mask(features[..., 9:10], jax.random.key(3))
    np.testing.assert_allclose(masked[..., 9:10], channel, atol=1e-5)  # all channels share one mask
    assert float(jnp.abs(masked).max()) > 1  # features are not clipped


@pytest.mark.parametrize("transform", ["dct", "fft"])
def test_the_whole_radius_keeps_everything(transform):
    images = noise((2, 9, 12, 3))
    np.testing.assert_allclose(low_pass(images, radius=1.0, transform=transform), images, atol=1e-6)
    kept = random_frequency_mask(images, KEYS[:2], min_radius=1.0, max_radius=1.0, transform=transform)
    np.testing.assert_allclose(kept, images, atol=1e-6)


def test_low_pass_erases_what_lies_beyond_its_radius():
    images = noise((1, 16, 12, 1))
    coefficients = scipy.fft.dctn(np.asarray(low_pass(images, radius=0.4))[0, ..., 0], norm="ortho")
    within = np.hypot(*np.mgrid[:16, :12]) <= 0.4 * 20
    original = scipy.fft.dctn(np.asarray(images)[0, ..., 0], norm="ortho")
    np.testing.assert_allclose(coefficients, original * within, atol=1e-5)


@pytest.mark.parametrize("transform", ["dct", "fft"])
def test_gradients_are_finite_differences(transform, x64):
    images = jnp.asarray(np.random.default_rng(0).random((2, 7, 6, 2)))
    check_gradient(lambda x: random_frequency_mask(x, KEYS[:2], transform=transform), images)


@pytest.mark.parametrize("radius", [0.0, -0.1, 1.01, float("nan")])
def test_a_radius_outside_its_range_is_refused(radius):
    with pytest.raises(ValueError, match="radius must be above 0 and at most 1, got"):
        low_pass(noise((1, 4, 4, 1)), radius=radius)
    with pytest.raises(ValueError, match="radius must be above 0 and at most 1"):
        random_frequency_mask(noise((1, 4, 4, 1)), jax.random.key(0), min_radius=0.2, max_radius=radius)


def test_an_unknown_transform_and_a_wrong_order_are_refused():
    with pytest.raises(ValueError, match="transform must be one of dct, fft, got 'wavelet'"):
        low_pass(noise((1, 4, 4, 1)), radius=0.5, transform="wavelet")
    with pytest.raises(ValueError, match=r"min_radius must be at most max_radius, got 0\.6 above 0\.5"):
        random_frequency_mask(noise((1, 4, 4, 1)), jax.random.key(0), min_radius=0.6)
