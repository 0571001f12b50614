"""Image quilting against a reference in NumPy that searches everything and places pixel by pixel."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import images as ji
from jaxpurify import keys as jk
from jaxpurify.gradients import substitute
from jaxpurify.purifiers.quilting import LUMA, Quilting, minimum_cut, read_patches
from jaxpurify.testing import check_purifier, count_compilations

RANDOM = np.random.default_rng(0)
PATCHES = RANDOM.random((150, 5, 5, 3)).astype(np.float32)
IMAGES = jnp.asarray(RANDOM.random((2, 13, 15, 3)), jnp.float32)
KEYS = jk.per_image(jax.random.key(0), 2)


def cut_in_numpy(errors):
    """Return a cheapest line by trying out all of them."""
    length, overlap = errors.shape
    lines = [
        line
        for line in itertools.product(range(overlap), repeat=length)
        if all(abs(a - b) <= 1 for a, b in itertools.pairwise(line))
    ]
    costs = [sum(errors[place, where] for place, where in enumerate(line)) for line in lines]
    return lines[int(np.argmin(costs))], min(costs)


def program_in_numpy(errors):
    """Return a cheapest line by dynamic programming, for lines too long to try out all."""
    length, overlap = errors.shape
    cost, origin = errors.copy(), np.zeros(errors.shape, int)
    for place in range(1, length):
        for where in range(overlap):
            near = [k for k in (where - 1, where, where + 1) if 0 <= k < overlap]
            origin[place, where] = min(near, key=lambda k: cost[place - 1, k])
            cost[place, where] += cost[place - 1, origin[place, where]]
    line = [int(np.argmin(cost[-1]))]
    for place in range(length - 1, 0, -1):
        line.insert(0, origin[place, line[0]])
    return line


def quilt_in_numpy(image, patches, size, overlap, picks):
    """Quilt one image; ``picks`` says how manieth nearest each patch of the grid takes."""
    height, width, channels = image.shape
    step = size - overlap
    counts = [-(-max(side - size, 0) // step) + 1 for side in (height, width)]
    image = np.pad(
        image,
        [(0, size + step * (n - 1) - side) for n, side in zip(counts, (height, width), strict=True)] + [(0, 0)],
        "symmetric",
    )
    strips = []
    for i in range(counts[0]):
        strip = np.zeros((size, image.shape[1], channels))
        for j in range(counts[1]):
            query = image[step * i : step * i + size, step * j : step * j + size]
            order = np.argsort(((patches - query[None]) ** 2).sum(axis=(1, 2, 3)))
            patch = patches[order[picks[i, j]]].copy()
            if j:
                before = strip[:, step * j : step * j + overlap]
                errors = ((before - patch[:, :overlap]) ** 2).sum(axis=2)
                for row, where in enumerate(program_in_numpy(errors)):
                    patch[row, :where] = before[row, :where]
            strip[:, step * j : step * j + size] = patch
        if i:
            errors = ((strips[-1][-overlap:] - strip[:overlap]) ** 2).sum(axis=2).T
            for column, where in enumerate(program_in_numpy(errors)):
                strip[:where, column] = strips[-1][-overlap:][:where, column]
        strips.append(strip)
    whole = np.concatenate([strip[:step] for strip in strips[:-1]] + [strips[-1]])
    return whole[:height, :width]


def test_a_cut_is_the_cheapest_of_all_lines():
    errors = RANDOM.random((6, 5, 3))
    cuts = np.asarray(minimum_cut(jnp.asarray(errors, jnp.float32)))
    for one, cut in zip(errors, cuts, strict=True):
        line, cost = cut_in_numpy(one)
        np.testing.assert_array_equal(cut, line)
        np.testing.assert_array_equal(program_in_numpy(one), line)
        np.testing.assert_allclose(one[np.arange(5), cut].sum(), cost)


@pytest.mark.parametrize(("size", "overlap", "channels"), [(5, 2, 3), (5, 2, 1), (4, 2, 3), (3, 1, 3)])
def test_equals_numpys_quilt_of_nearest_patches(size, overlap, channels):
    patches, images = PATCHES[:, :size, :size], IMAGES[..., :channels]
    found = Quilting(patches=patches, size=size, overlap=overlap, neighbours=1)(images)
    database = patches.astype(np.float64)
    database = database if channels == 3 else (database * LUMA).sum(axis=3, keepdims=True)
    picks = np.zeros((9, 9), int)
    for image, quilt in zip(images, found, strict=True):
        expected = quilt_in_numpy(np.asarray(image, np.float64), database, size, overlap, picks)
        np.testing.assert_allclose(quilt, expected, atol=1e-6)


def test_equals_numpys_quilt_of_the_same_draws_among_the_nearest():
    found = Quilting(patches=PATCHES, neighbours=10)(IMAGES, KEYS)
    for image, quilt, key in zip(IMAGES, found, KEYS, strict=True):
        picks = (np.asarray(jax.random.uniform(key, (4 * 5,))) * 10).astype(int).reshape(4, 5)
        expected = quilt_in_numpy(np.asarray(image, np.float64), PATCHES.astype(np.float64), 5, 2, picks)
        np.testing.assert_allclose(quilt, expected, atol=1e-6)


def test_an_image_made_of_the_databases_patches_is_reproduced():
    image = np.asarray(IMAGES[0])[:11, :14]
    own = [image[i : i + 5, j : j + 5] for i in range(0, 7, 3) for j in range(0, 10, 3)]
    patches = np.concatenate([PATCHES, own])
    np.testing.assert_array_equal(Quilting(patches=patches, neighbours=1)(image[None])[0], image)


def test_chunks_do_not_change_the_quilt(monkeypatch):
    expected = Quilting(patches=PATCHES)(IMAGES, KEYS)
    monkeypatch.setattr("jaxpurify.purifiers.quilting.DISTANCES", 7 * 192)
    jax.clear_caches()
    np.testing.assert_array_equal(Quilting(patches=PATCHES)(IMAGES, KEYS), expected)


def test_the_exact_gradient_is_zero_and_the_surrogates_is_the_identity():
    purifier, weights = Quilting(patches=PATCHES), RANDOM.normal(size=IMAGES.shape).astype(np.float32)

    def total(images, change):
        return (change(purifier)(images, KEYS) * weights).sum()

    np.testing.assert_array_equal(jax.grad(total)(IMAGES, lambda model: model), np.zeros(IMAGES.shape))
    np.testing.assert_array_equal(jax.grad(total)(IMAGES, substitute), weights)


def test_another_database_does_not_compile_anew():
    with count_compilations() as compilations:
        run = jax.jit(lambda purifier, images, keys: purifier(images, keys))
        first = run(Quilting(patches=PATCHES), IMAGES, KEYS)
        second = run(Quilting(patches=1 - PATCHES), IMAGES, KEYS)
    assert compilations.count("<lambda>") == 1
    assert not np.array_equal(first, second)


def test_the_default_database_is_cut_from_the_training_split_and_always_the_same():
    from jaxpurify import datasets

    patches = read_patches("photos", count=40, size=5)
    np.testing.assert_array_equal(read_patches("photos", count=40, size=5), patches)
    windows = np.lib.stride_tricks.sliding_window_view(
        datasets.load("photos", split="train").images, (5, 5), axis=(1, 2)
    )
    corner = windows[..., 0, 0]
    for patch in patches[:3]:
        where = np.argwhere((corner == patch[0, 0]).all(axis=3))
        assert any(np.array_equal(windows[tuple(place)].transpose(1, 2, 0), patch) for place in where)


def test_a_folder_is_a_database(tmp_path):
    (tmp_path / "deeper").mkdir()
    ji.write(tmp_path / "red.png", np.broadcast_to(np.uint8([255, 0, 0]), (6, 9, 3)))
    ji.write(tmp_path / "deeper" / "grey.png", np.full((7, 5, 1), 51, np.uint8))
    patches = Quilting(source=str(tmp_path), count=10).patches
    colours = np.unique(patches.mean(axis=(1, 2)), axis=0)
    np.testing.assert_allclose(colours, [[0.2, 0.2, 0.2], [1, 0, 0]], atol=1e-6)


def test_folders_without_patches_are_refused(tmp_path):
    with pytest.raises(ValueError, match="source must be photos or a folder of images, got 'nowhere'"):
        Quilting(source="nowhere")
    ji.write(tmp_path / "small.png", np.full((4, 9, 3), 51, np.uint8))
    with pytest.raises(ValueError, match="source must hold images of at least 5×5 pixels, got one of 4×9"):
        Quilting(source=str(tmp_path))


def test_one_neighbour_needs_no_key():
    assert Quilting(patches=PATCHES).random
    assert not Quilting(patches=PATCHES, neighbours=1).random


@pytest.mark.slow
def test_it_keeps_the_contract_on_one_row():
    check_purifier(Quilting(patches=PATCHES, neighbours=1), size=(1, 7), channels=1)


@pytest.mark.slow
def test_it_keeps_the_contract():
    check_purifier(Quilting())
    check_purifier(Quilting(neighbours=1), size=(32, 32), channels=1)


@pytest.mark.slow
def test_it_keeps_the_contract_in_float64(x64):
    check_purifier(Quilting(patches=PATCHES), size=(8, 9))


@pytest.mark.slow
def test_an_image_of_224_pixels_fits():
    image = jnp.asarray(RANDOM.random((1, 224, 224, 3)), jnp.float32)
    assert Quilting()(image, KEYS[:1]).shape == image.shape


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"neighbours": 0}, "neighbours must be an integer of at least 1, got 0"),
        ({"neighbours": 151}, r"neighbours must be at most the number of patches \(150\), got 151"),
        ({"overlap": 3}, r"overlap must be an integer from 0 to half of size \(5\), got 3"),
        ({"size": 4}, r"patches must have shape \(count, 4, 4, 3\), got \(150, 5, 5, 3\)"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(fields, message):
    with pytest.raises(ValueError, match=message):
        Quilting(**({"patches": PATCHES} | fields))


def test_two_channels_are_refused():
    with pytest.raises(ValueError, match="images must have 3 channels"):
        Quilting(patches=PATCHES)(IMAGES[..., :2], KEYS)


@pytest.mark.parametrize("value", [7.0, float("nan")])
def test_patches_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match="patches must be"):
        Quilting(patches=np.full((20, 5, 5, 3), value, np.float32))
