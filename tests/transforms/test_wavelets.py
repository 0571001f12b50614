"""The wavelet transform against PyWavelets, coefficient by coefficient, and against itself there and back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pywt

from jaxpurify.testing import check_gradient
from jaxpurify.transforms.wavelet_filters import EXTENSIONS, max_levels, wavelet_filters
from jaxpurify.transforms.wavelets import wavedec2, waverec2

WAVELETS = ("haar", "db3", "sym4", "coif1", "bior2.2", "rbio1.3")
SIZES = ((16, 16), (15, 22), (21, 13))


def noise(size, channels=2, dtype=np.float32):
    return np.random.default_rng(0).random((2, *size, channels)).astype(dtype)


def by_pywavelets(images, *, levels, wavelet, extension):
    """Coefficients in float64; PyWavelets warns where all of a band touches the border."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pywt._multilevel.warnings, "warn", lambda *arguments, **options: None)
        approximation, *details = pywt.wavedec2(
            images.astype(np.float64), wavelet, mode=extension, level=levels, axes=(1, 2)
        )
    return approximation, tuple(details)


# The same program, but for what would make it fast: that takes longer than all these small images.
@functools.partial(
    jax.jit,
    static_argnames=("levels", "wavelet", "extension"),
    compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
)
def there_and_back(images, *, levels, **options):
    coefficients = wavedec2(images, levels=levels, **options)
    return coefficients, waverec2(coefficients, size=images.shape[1:3], **options)


def check(images, *, levels, tolerance=1e-5, **options):
    coefficients, again = there_and_back(images, levels=levels, **options)
    expected = by_pywavelets(images, levels=levels, **options)
    assert jax.tree.structure(coefficients) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(coefficients), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == images.dtype
        np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=0)
    np.testing.assert_allclose(again, images, atol=tolerance, rtol=0)


@pytest.mark.parametrize("extension", ["symmetric", "periodization"])
@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize("size", SIZES)
def test_equals_pywavelets_and_is_undone(size, wavelet, extension):
    check(noise(size), levels=max(max_levels(size, wavelet=wavelet), 1), wavelet=wavelet, extension=extension)


@pytest.mark.parametrize("wavelet", ["haar", "rbio1.1", "db3"])
def test_periodic_extension_equals_pywavelets(wavelet):
    check(noise((15, 22)), levels=1, wavelet=wavelet, extension="periodic")


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("wavelet", ["haar", "db6"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2)])
def test_one_level_is_possible_at_any_size(size, wavelet, extension):
    check(noise(size), levels=1, wavelet=wavelet, extension=extension)


@pytest.mark.slow
@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("wavelet", ["db4", "db38", "sym8", "sym20", "coif3", "bior3.1", "bior6.8", "rbio2.8"])
@pytest.mark.parametrize("size", [(64, 64), (63, 80)])
def test_longer_filters_equal_pywavelets_in_float64(size, wavelet, extension, x64):
    levels = max(max_levels(size, wavelet=wavelet), 1)
    check(noise(size, 1, np.float64), levels=levels, wavelet=wavelet, extension=extension, tolerance=1e-9)


def test_float64_images_are_transformed_in_float64(x64):
    for wavelet in ("haar", "db2"):
        images = noise((9, 10), 1, np.float64)
        check(images, levels=1, wavelet=wavelet, extension="symmetric", tolerance=1e-11)


def test_planar_images_have_the_same_coefficients():
    images = jnp.asarray(noise((15, 22)))
    planar = wavedec2(images.transpose(0, 3, 1, 2), levels=2, axes=(2, 3))
    expected = wavedec2(images, levels=2)
    for ours, theirs in zip(jax.tree.leaves(planar), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours.transpose(0, 2, 3, 1), theirs)
    again = waverec2(planar, size=(15, 22), axes=(2, 3))
    np.testing.assert_allclose(again.transpose(0, 2, 3, 1), images, atol=1e-6)


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_gradients_equal_finite_differences(wavelet, extension, x64):
    images = jnp.asarray(noise((7, 6), 1, np.float64))

    def bent(images):
        coefficients = wavedec2(images, levels=1, wavelet=wavelet, extension=extension)
        bands = jax.tree.map(jnp.sin, coefficients)
        return coefficients, waverec2(bands, size=(7, 6), wavelet=wavelet, extension=extension)

    check_gradient(bent, images, directions=2)


def test_second_derivatives_are_there():
    images = jnp.asarray(noise((8, 8), 1))

    def energy(images):
        return 0.5 * sum(jnp.sum(band**2) for band in jax.tree.leaves(wavedec2(images, levels=1)))

    # Haar is orthonormal, so energy is kept, its gradient is the image and its second derivative the identity.
    product = jax.grad(lambda x: jnp.vdot(jax.grad(energy)(x), images))(images)
    np.testing.assert_allclose(product, images, atol=1e-6)


def test_a_level_is_mapped_over_new_axes():
    images = jnp.asarray(noise((8, 8)))
    mapped = jax.vmap(lambda x: wavedec2(x, levels=1, wavelet="db2"))(jnp.stack([images, 2 * images]))
    np.testing.assert_allclose(mapped[0][1], 2 * mapped[0][0], atol=1e-6)


@pytest.mark.parametrize("name", ["haar", "db4", "sym8", "coif1", "bior2.2", "rbio3.1"])
def test_levels_are_pywavelets(name):
    for size in range(1, 300, 7):
        expected = pywt.dwt_max_level(size, name)
        assert max_levels((size, 300), wavelet=name) == expected


def test_unknown_names_and_small_images_are_refused_in_one_sentence():
    images = jnp.zeros((1, 16, 17, 1))
    for wavelet in ("db0", "dmey", "morl"):
        with pytest.raises(ValueError, match=f"wavelet must be one of PyWavelets' families .* got '{wavelet}'"):
            wavelet_filters(wavelet)
    with pytest.raises(ValueError, match="extension must be one of symmetric, periodic, periodization, got 'zero'"):
        wavedec2(images, levels=1, extension="zero")
    with pytest.raises(ValueError, match="at most 1 for an image of 16 × 17 pixels and the wavelet 'db4', got 2"):
        wavedec2(images, levels=2, wavelet="db4")
    with pytest.raises(ValueError, match="levels must be an integer of at least 1, got 0"):
        wavedec2(images, levels=0)


def test_coefficients_of_another_size_are_refused():
    coefficients = wavedec2(jnp.zeros((1, 16, 16, 1)), levels=2)
    with pytest.raises(ValueError, match="coefficients of 2 levels for images of 18 × 16 pixels must have bands of"):
        waverec2(coefficients, size=(18, 16))


def test_8_bit_images_are_refused():
    with pytest.raises(TypeError, match="images must be of floating point, got uint8: 8-bit levels"):
        wavedec2(jnp.full((1, 8, 8, 1), 200, jnp.uint8), levels=1)
