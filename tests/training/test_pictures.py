"""Photographs of any size, their reductions, and the patches cut from them."""

import jax
import numpy as np
import pytest
from PIL import Image

from jaxpurify import datasets
from jaxpurify.datasets.photos import photographs
from jaxpurify.training import BlindSpot, Recipe
from jaxpurify.training import pictures as module
from jaxpurify.training.loop import Run
from jaxpurify.training.pictures import patches, pictures, pyramid, reduced, turned

RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.integers(0, 256, (23, 31, 3), np.uint8)


def ramp(height, width):
    """A picture that says at each pixel where it is."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, columns, np.zeros_like(rows)], axis=2)


def test_pictures_come_from_names_folders_files_data_sets_and_arrays(tmp_path):
    assert [picture.shape for picture in pictures("photos")] == [picture.shape for picture in photographs()]
    (tmp_path / "images/inner").mkdir(parents=True)
    Image.fromarray(PICTURE).save(tmp_path / "images/a.png")
    Image.fromarray(PICTURE[:9]).save(tmp_path / "images/inner/b.png")
    (tmp_path / "images/notes.txt").write_text("no picture")
    first, second = pictures(tmp_path / "images")
    np.testing.assert_array_equal(first, PICTURE)
    np.testing.assert_array_equal(second, PICTURE[:9])
    stack = np.stack([PICTURE, PICTURE[::-1]])
    np.savez(tmp_path / "some.npz", images=stack, labels=np.zeros(2, np.int32))
    np.testing.assert_array_equal(pictures(str(tmp_path / "some.npz")), stack)
    np.testing.assert_array_equal(pictures(datasets.load(tmp_path / "some.npz")), stack)
    np.savez(tmp_path / "unlabelled.npz", images=stack)
    np.testing.assert_array_equal(pictures(tmp_path / "unlabelled.npz"), stack)
    np.testing.assert_array_equal(pictures(stack), stack)
    np.testing.assert_array_equal(pictures([PICTURE / np.float32(255)])[0], PICTURE)


def test_grey_becomes_three_channels_and_opacity_is_dropped():
    grey, opaque = pictures([PICTURE[..., :1], np.concatenate([PICTURE, PICTURE[..., :1]], axis=2)])
    np.testing.assert_array_equal(grey, PICTURE[..., [0, 0, 0]])
    np.testing.assert_array_equal(opaque, PICTURE)


def test_what_holds_no_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no images, expected files that end in"):
        pictures(tmp_path)
    with pytest.raises(ValueError, match=r"at least one picture, got none"):
        pictures([])
    with pytest.raises(TypeError, match=r"a name, a folder, a Dataset or pictures .* got int"):
        pictures(3)
    with pytest.raises(ValueError, match=r"picture 1 must be .* 1, 3 or 4 channels.*\(23, 31\)"):
        pictures([PICTURE, PICTURE[..., 0]])
    with pytest.raises(ValueError, match=r"picture 0"):
        pictures([PICTURE.astype(np.float32)])


def test_reduced_is_antialiased_bicubic_as_pillow_has_it():
    """Pillow's bicubic has the same kernel; it rounds between the axes, hence one level."""
    for factor in (2, 3):
        height, width = (side // factor for side in PICTURE.shape[:2])
        cut = PICTURE[: height * factor, : width * factor]
        expected = np.asarray(Image.fromarray(cut).resize((width, height), Image.Resampling.BICUBIC))
        difference = np.abs(reduced(PICTURE, factor).astype(int) - expected)
        assert difference[2:-2, 2:-2].max() <= 1
    assert reduced(PICTURE, 1) is PICTURE


def test_a_pyramid_leaves_out_what_is_too_small():
    kept = pyramid([PICTURE, PICTURE[:12]], (1, 2), least=11)
    assert [picture.shape[:2] for picture in kept] == [(23, 31), (12, 31), (11, 15)]
    with pytest.raises(ValueError, match=r"at least 24 rows and columns .* the largest of the 2 given has 23"):
        pyramid([PICTURE, PICTURE[:12]], (1, 2), least=24)
    for wrong in ((), (0,)):
        with pytest.raises(ValueError, match=r"reductions must be whole numbers"):
            pyramid([PICTURE], wrong, least=4)


def test_the_eight_symmetries_are_distinct_and_undone_by_symmetries():
    square = PICTURE[:5, :5]
    found = [turned(square, number) for number in range(8)]
    assert len({each.tobytes() for each in found}) == 8
    np.testing.assert_array_equal(found[0], square)
    np.testing.assert_array_equal(found[4], square[:, ::-1])
    for each in found:
        assert any(np.array_equal(turned(each, number), square) for number in range(8))


@pytest.mark.parametrize("scale", [2, 3])
def test_pairs_of_patches_show_the_same_place(scale):
    """The ramp's values are places: a high pixel is within the low pixel it belongs to, under every symmetry."""
    low, high = ramp(20, 30), ramp(20 * scale, 30 * scale)
    random, places = np.random.default_rng(1), set()
    for _ in range(60):
        small, large = patches(((low, 1), (high, scale)), random, patch=6)
        assert small.shape == (6, 6, 3)
        assert large.shape == (6 * scale, 6 * scale, 3)
        owner = np.repeat(np.repeat(small, scale, axis=0), scale, axis=1)
        np.testing.assert_array_equal(large[..., :2] // scale, owner[..., :2])
        places.add(tuple(small[..., :2].reshape(-1, 2).min(axis=0).tolist()))
    assert {place[0] for place in places} <= set(range(15))
    assert max(place[0] for place in places) >= 13
    assert max(place[1] for place in places) >= 22


@pytest.mark.parametrize("factor", [2, 3])
def test_long_pictures_are_reduced_to_the_same(factor, monkeypatch):
    picture = np.random.default_rng(3).integers(0, 256, (25, 301, 3), np.uint8)
    expected = reduced(picture, factor)
    monkeypatch.setattr(module, "LONG", 10)
    difference = np.abs(reduced(picture, factor).astype(int) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 1e-3


def test_the_low_patch_is_the_high_patch_reduced():
    picture = photographs()[0][:96, :96]
    low, high = patches(((reduced(picture, 2), 1), (picture, 2)), np.random.default_rng(2), patch=20)
    difference = np.abs(reduced(high, 2).astype(int) - low)
    assert difference[2:-2, 2:-2].max() <= 1


def test_every_symmetry_is_drawn():
    random = np.random.default_rng(3)
    square = PICTURE[:5, :5]
    assert len({patches(((square, 1),), random, patch=5)[0].tobytes() for _ in range(100)}) == 8


def test_a_picture_is_held_out_at_every_size(tmp_path):
    pictures = np.random.default_rng(0).integers(256, size=(6, 32, 32, 3), dtype=np.uint8)
    task = BlindSpot(layers=1, width=1, patch=8, reductions=(1, 2, 4))
    recipe = Recipe(batch_size=2, held_out=0.34)
    run = Run(task, pictures, steps=1, run=tmp_path, key=jax.random.key(0), recipe=recipe)
    trained, scored = (set(run.source.groups[rows]) for rows in (run.examples, run.scored))
    assert len(run.source) == len(run.examples) + len(run.scored) == 18
    assert (len(trained), len(scored), trained & scored) == (4, 2, set())
