"""Resampling matrices against Pillow and JAX's own resizing, window by window."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxpurify.testing import count_compilations
from jaxpurify.transforms.resampling import METHODS, resample, resample_window, resampling_band, resampling_matrix

# Pillow's bilinear is this triangle and its bicubic is Keys' with a = −0.5.
PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos3": Image.Resampling.LANCZOS,
}
IMAGE = np.random.default_rng(0).random((13, 17)).astype(np.float32)


def windowed(image, output, source, target, method):
    """Resize by two matrices, with windows given as ((start, length), (start, length))."""
    rows, columns = (
        resampling_matrix(size, output=out, source=own, target=onto, method=method)
        for size, out, own, onto in zip(image.shape, output, source, target, strict=True)
    )
    return np.asarray(resample(jnp.asarray(image)[None, :, :, None], rows=rows, columns=columns))[0, :, :, 0]


def whole(shape):
    return tuple((0, size) for size in shape)


@pytest.mark.parametrize("method", PILLOW)
@pytest.mark.parametrize("output", [(13, 17), (26, 34), (7, 9), (14, 40), (1, 1), (31, 5)])
def test_equals_pillow(output, method):
    expected = np.asarray(Image.fromarray(IMAGE).resize(output[::-1], PILLOW[method]))
    found = windowed(IMAGE, output, whole(IMAGE.shape), whole(output), method)
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("output", [(26, 34), (7, 9)])
def test_equals_jax(output, method):
    expected = jax.image.resize(IMAGE, output, method=method, precision="highest")
    found = windowed(IMAGE, output, whole(IMAGE.shape), whole(output), method)
    np.testing.assert_allclose(found, expected, atol=3e-6, rtol=0)


@pytest.mark.parametrize("method", PILLOW)
def test_a_source_window_is_cut_out_first(method):
    expected = np.asarray(Image.fromarray(IMAGE[2:9, 5:15]).resize((17, 13), PILLOW[method]))
    found = windowed(IMAGE, (13, 17), ((2, 7), (5, 10)), whole((13, 17)), method)
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", PILLOW)
def test_a_target_window_is_surrounded_by_zeros(method):
    expected = np.zeros((20, 30), np.float32)
    expected[3:18, 1:12] = np.asarray(Image.fromarray(IMAGE).resize((11, 15), PILLOW[method]))
    found = windowed(IMAGE, (20, 30), whole(IMAGE.shape), ((3, 15), (1, 11)), method)
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_traced_windows_give_what_given_ones_give_and_compile_once(method):
    def of(start, length, first, count):
        return resampling_matrix(21, output=24, source=(start, length), target=(first, count), method=method)

    with count_compilations() as compilations:
        run = jax.jit(of)
        for windows in ((0, 21, 0, 24), (3, 9, 2, 20), (20, 1, 23, 1), (0, 21, 5, 3)):
            np.testing.assert_allclose(run(*windows), of(*windows), atol=1e-6, rtol=0)
    assert compilations.count("of") == 1


@pytest.mark.parametrize("method", METHODS)
def test_rows_sum_to_one_inside_the_target_window_and_to_zero_outside(method):
    matrix = resampling_matrix(40, output=50, source=(3, 30), target=(7, 11), method=method)
    expected = (np.arange(50) >= 7) & (np.arange(50) < 18)
    np.testing.assert_allclose(matrix.sum(axis=1), expected, atol=1e-6)


def test_one_matrix_an_image_is_applied_to_that_image():
    images = jnp.asarray(np.random.default_rng(1).random((3, 6, 5, 2)), jnp.float32)
    rows = jnp.stack([resampling_matrix(6, output=4, source=(i, 3)) for i in range(3)])
    columns = jnp.stack([resampling_matrix(5, output=7, target=(i, 3)) for i in range(3)])
    for i, image in enumerate(resample(images, rows=rows, columns=columns)):
        alone = resample(images[i : i + 1], rows=rows[i], columns=columns[i])[0]
        np.testing.assert_allclose(image, alone, atol=1e-6)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match=r"method must be one of nearest, bilinear, .*, got 'area'"):
        resampling_matrix(3, output=4, method="area")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [(130, 261), (261, 130), (200, 7), (7, 200), (150, 75, 150), (90, 200, 90), (1, 70)])
def test_the_band_holds_the_whole_matrix(sizes, method):
    expected = np.eye(sizes[0])
    for size, resized in itertools.pairwise(sizes):
        expected = resampling_matrix(size, output=resized, method=method, dtype=np.float64) @ expected
    band = resampling_band(sizes, method=method, dtype=np.float64)
    found = np.zeros((len(band.starts) * band.weights.shape[1], sizes[0]))
    for block, (start, weights) in enumerate(zip(band.starts, band.weights, strict=True)):
        rows = slice(block * len(weights), (block + 1) * len(weights))
        found[rows, start : start + weights.shape[1]] = weights
    np.testing.assert_allclose(found[: sizes[-1]], expected, atol=1e-15)
    assert not found[sizes[-1] :].any()


def test_a_band_is_narrow_and_does_not_overflow():
    band = resampling_band((60_000, 120_000), method="bicubic")
    assert band.weights.nbytes < 2**25
    np.testing.assert_allclose(band.weights.sum(axis=2), 1, atol=1e-6)


def test_a_band_is_applied_to_rows_and_columns_and_has_the_gradient_of_its_matrix():
    image = jnp.asarray(np.random.default_rng(0).random((2, 70, 140, 3), np.float32))
    operators = [
        {"rows": of_axis(70, 150), "columns": of_axis(140, 61)}
        for of_axis in (
            lambda size, output: resampling_matrix(size, output=output, method="bicubic"),
            lambda size, output: resampling_band((size, output), method="bicubic"),
        )
    ]

    def total(image, operator):
        return (resample(image, **operator) ** 2).sum()

    dense, banded = (jax.value_and_grad(total)(image, operator) for operator in operators)
    np.testing.assert_allclose(banded[0], dense[0], rtol=1e-5)
    np.testing.assert_allclose(banded[1], dense[1], atol=1e-5)
    assert resample(image, **operators[1]).shape == (2, 150, 61, 3)


@pytest.mark.parametrize("method", ["nearest", "bicubic"])
def test_a_traced_window_in_parts_equals_its_matrices(method):
    image, source, target = np.tile(IMAGE, (6, 6)), ((3, 60), (5, 90)), ((2, 70), (9, 65))
    expected = windowed(image, (75, 80), source, target, method)

    def run(sources, targets):
        return resample_window(
            jnp.asarray(image)[..., None], output=(75, 80), sources=sources, targets=targets, method=method
        )

    np.testing.assert_allclose(jax.jit(run)(source, target)[..., 0], expected, atol=2e-6)
