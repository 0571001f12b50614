"""Cosine transforms against SciPy's."""

import numpy as np
import pytest
import scipy.fft

from jaxpurify.transforms.dct import BOUNDARIES, cosine_basis, period

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
