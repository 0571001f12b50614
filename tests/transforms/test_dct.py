"""Cosine transforms against SciPy's."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from jaxpurify.testing import check_gradient
from jaxpurify.transforms.dct import BOUNDARIES, cosine_basis, dct2, dct_filter, idct2, period

SIZES = (1, 2, 3, 8, 33)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("size", SIZES)
def test_synthesis_undoes_analysis(size, boundary):
    analysis, synthesis = cosine_basis(size, boundary=boundary)
    np.testing.assert_allclose(synthesis @ analysis, np.eye(size), atol=1e-13)


@pytest.mark.parametrize("size", SIZES)
def test_symmetric_basis_is_the_orthonormal_dct_2(size):
    analysis, _ = cosine_basis(size, boundary="symmetric")
    np.testing.assert_allclose(analysis, scipy.fft.dct(np.eye(size), norm="ortho", axis=0), atol=1e-13)


@pytest.mark.parametrize("size", SIZES[1:])
def test_mirror_basis_is_half_the_dct_1(size):
    analysis, _ = cosine_basis(size, boundary="mirror")
    np.testing.assert_allclose(analysis, scipy.fft.dct(np.eye(size), type=1, axis=0) / 2, atol=1e-13)


@pytest.mark.parametrize(("boundary", "mode"), [("symmetric", "symmetric"), ("mirror", "reflect")])
def test_a_continued_row_repeats_after_the_period(boundary, mode):
    row = np.arange(5.0)
    continued = np.pad(row, (0, 20), mode=mode)
    length = period(5, boundary=boundary)
    np.testing.assert_array_equal(continued[:-length], continued[length:])
    shorter = [n for n in range(1, length) if np.array_equal(continued[:-n], continued[n:])]
    assert not shorter


def test_a_large_basis_keeps_full_precision():
    analysis, _ = cosine_basis(2000)
    np.testing.assert_allclose(analysis[-1], scipy.fft.idct(np.eye(2000)[-1], norm="ortho"), atol=1e-14)


def test_bad_input_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="boundary must be one of symmetric, mirror, got 'reflect'"):
        cosine_basis(4, boundary="reflect")
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        cosine_basis(0)


def noise(shape, dtype=np.float32):
    return np.random.default_rng(0).random(shape).astype(dtype)


@pytest.mark.parametrize("shape", [(2, 31, 45, 3), (2, 16, 12, 1), (1, 1, 7, 3), (1, 9, 6, 64)])
def test_dct2_is_scipys_dctn_and_idct2_undoes_it(shape):
    images = noise(shape)
    coefficients = dct2(jnp.asarray(images))
    expected = scipy.fft.dctn(images.astype(np.float64), axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(coefficients, expected, atol=1e-5)
    np.testing.assert_allclose(idct2(coefficients), images, atol=1e-5)


def test_dct2_of_a_photograph_sized_image_is_scipys():
    images = noise((1, 224, 224, 3))
    expected = scipy.fft.dctn(images.astype(np.float64), axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(dct2(jnp.asarray(images)), expected, rtol=1e-6, atol=5e-5)  # the mean's is above 100


@pytest.mark.parametrize("size", [(16, 12), (15, 12), (16, 13), (7, 9), (1, 8), (2, 1)])
def test_folding_changes_nothing_but_the_arithmetic(size):
    images, gains = noise((3, *size, 2)), noise((3, *size)) + 0.5
    coefficients = scipy.fft.dctn(images.astype(np.float64), axes=(1, 2), norm="ortho")
    expected = scipy.fft.idctn(coefficients * gains[..., None], axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(dct_filter(jnp.asarray(images), jnp.asarray(gains)), expected, atol=2e-6)
    shared = dct_filter(jnp.asarray(images), jnp.asarray(gains[:1]))
    np.testing.assert_allclose(shared[0], expected[0], atol=2e-6)


def test_the_gradient_of_a_filter_is_its_finite_difference(x64):
    values = (jnp.asarray(noise((1, 6, 5, 2), np.float64)), jnp.asarray(noise((1, 6, 5), np.float64)))
    check_gradient(lambda pair: dct_filter(*pair), values)


def test_float64_stays_float64(x64):
    images = jnp.asarray(noise((1, 8, 6, 1), np.float64))
    np.testing.assert_allclose(dct_filter(images, jnp.ones((1, 8, 6))), images, atol=1e-14)
    assert dct2(images).dtype == np.float64


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"gains must have shape \(2, 8, 6\) or \(1, 8, 6\), got \(2, 6, 8\)"):
        dct_filter(jnp.zeros((2, 8, 6, 3)), jnp.zeros((2, 6, 8)))
