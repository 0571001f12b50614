"""Random resizing and padding: each draw is Pillow's or JAX's own resizing, somewhere in the frame."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxpurify import keys as jk
from jaxpurify.models import Defended, classifier
from jaxpurify.purifiers.random_resizing import RandomResizing
from jaxpurify.testing import check_gradient, check_purifier, count_compilations

# Never equal to the fill, so that the frame can be told from the image.
PHOTO = np.random.default_rng(0).integers(20, 120, (32, 32, 3)).astype(np.uint8)
IMAGES = jnp.asarray(np.repeat(PHOTO[None], 64, axis=0) / 255, jnp.float32)
KEYS = jk.per_image(jax.random.key(3), 64)
purify = jax.jit(lambda purifier, images, keys: purifier(images, keys))


def placed(image, fill):
    """Return the part of a frame that is no fill, and where it begins."""
    rows, columns = (np.flatnonzero((np.abs(image - fill) > 1e-3).any(axis=axes)) for axes in ((1, 2), (0, 2)))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], (rows[0], columns[0])


def test_every_draw_is_the_image_resized_by_pillow_at_a_place_in_the_frame():
    seen = collections.Counter()
    for image in np.asarray(purify(RandomResizing(fill=1.0, largest=1.25), IMAGES, KEYS)):
        assert image.shape == (40, 40, 3)
        part, (top, left) = placed(image, 1.0)
        assert part.shape[0] == part.shape[1]
        resized = Image.fromarray(PHOTO).resize(part.shape[:2], Image.Resampling.NEAREST)
        # Where a pixel's centre falls on the border of two, Pillow's running sum is now below it, now above.
        clear = (2 * np.arange(len(part)) + 1) * 32 % (2 * len(part)) != 0
        np.testing.assert_allclose(part[clear][:, clear], (np.asarray(resized) / 255)[clear][:, clear], atol=1e-7)
        np.testing.assert_allclose(part, jax.image.resize(IMAGES[0], part.shape, method="nearest"), atol=1e-7)
        seen["size", part.shape[0]] += 1
        seen["top", top] += 1
        seen["left", left] += 1
    assert {size for name, size in seen if name == "size"} == set(range(32, 40))
    for side in ("top", "left"):
        places = {place for name, place in seen if name == side}
        assert {0, 5} <= places <= set(range(9)), side


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "lanczos3"])
def test_other_methods_are_those_of_jax(method):
    purifier = RandomResizing(fill=1.0, largest=1.25, method=method, smallest=1.1)
    for image in np.asarray(purify(purifier, IMAGES[:8], KEYS[:8])):
        part, _ = placed(image, 1.0)
        resized = jax.image.resize(IMAGES[0], part.shape, method=method, precision="highest")
        np.testing.assert_allclose(part, np.clip(resized, 0, 1), atol=2e-6)


def test_299_pixels_go_to_between_299_and_331_in_a_frame_of_331():
    keys = jk.per_image(jax.random.key(0), 1)
    image = purify(RandomResizing(), jnp.zeros((1, 299, 299, 3)), keys)[0]
    assert image.shape == (331, 331, 3)
    part, _ = placed(np.asarray(image), 0.5)
    assert 299 <= part.shape[0] < 331


def test_drawn_sizes_and_places_are_uniform():
    images = jnp.zeros((4096, 8, 8, 1))
    frames = purify(RandomResizing(fill=1.0, largest=1.5), images, jk.per_image(jax.random.key(1), 4096))
    covered = 1 - np.asarray(frames)[..., 0]
    sizes = covered.max(axis=2).sum(axis=1).astype(int)
    counts = np.bincount(sizes)
    assert set(np.flatnonzero(counts)) == {8, 9, 10, 11}
    # Four standard deviations of a binomial count.
    np.testing.assert_allclose(counts[8:], 1024, atol=4 * np.sqrt(4096 * 0.25 * 0.75))
    for size in range(8, 12):
        for axis in (1, 2):
            places = np.bincount(covered[sizes == size].max(axis=axis).argmax(axis=1))
            likely = 1 / (12 - size + 1)
            assert len(places) == 12 - size + 1
            np.testing.assert_allclose(places / counts[size], likely, atol=4 * np.sqrt(likely * (1 - likely) / 1024))


def test_sides_keep_their_proportion():
    frame = purify(RandomResizing(fill=1.0), jnp.zeros((1, 20, 60, 1)), KEYS[:1])[0]
    part, _ = placed(np.asarray(frame), 1.0)
    assert frame.shape == (23, 67, 1)
    assert part.shape[1] == 3 * part.shape[0]


def test_keeping_the_size_shrinks_by_the_same_ratio():
    purifier = RandomResizing(fill=1.0, largest=1.25, keep_size=True)
    frames = np.asarray(purify(purifier, jnp.zeros((64, 40, 40, 1)), KEYS))
    assert frames.shape == (64, 40, 40, 1)
    assert {placed(frame, 1.0)[0].shape[0] for frame in frames} == set(range(32, 40))
    assert not purifier.changes_size
    assert RandomResizing().changes_size


def test_a_classifier_of_one_size_is_refused_unless_the_size_is_kept():
    fixed = classifier(lambda images: images.mean(axis=(1, 2)), image_shape=(32, 32, 3))
    with pytest.raises(ValueError, match="RandomResizing turns images of"):
        Defended(fixed, RandomResizing())
    assert Defended(fixed, RandomResizing(keep_size=True))(IMAGES[:2], KEYS[:2]).shape == (2, 3)


def test_new_numbers_do_not_compile_anew():
    with count_compilations() as compilations:
        run = jax.jit(lambda purifier, images, keys: purifier(images, keys))
        for smallest, fill in ((1.0, 0.5), (1.05, 0.0), (0.9, 1.0)):
            run(RandomResizing(smallest=smallest, fill=fill), IMAGES[:2], KEYS[:2])
    assert compilations.count("<lambda>") == 1


def test_the_exact_gradient_is_there(x64):
    images = jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.8, (2, 6, 9, 2)))
    keys = jk.per_image(jax.random.key(0), 2)
    check_gradient(lambda x: RandomResizing(method="bilinear", largest=1.5)(x, keys), images)


@pytest.mark.parametrize(
    "purifier", [RandomResizing(), RandomResizing(keep_size=True, method="bicubic", smallest=0.6)], ids=str
)
@pytest.mark.slow
def test_it_keeps_the_contract(purifier):
    check_purifier(purifier)
    check_purifier(purifier, size=(32, 32), channels=1)


@pytest.mark.slow
def test_it_keeps_the_contract_on_one_row():
    check_purifier(RandomResizing(), size=(1, 7))


@pytest.mark.slow
def test_it_keeps_the_contract_in_float64(x64):
    check_purifier(RandomResizing(method="bilinear"), size=(8, 9))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"smallest": 0.0}, "smallest must be above 0"),
        ({"smallest": 1.2}, "smallest must be above 0 and at most largest"),
        ({"largest": 0.9}, "largest must be a share of the image's side of at least 1, got 0.9"),
        ({"fill": -0.1}, "fill must be from 0 to 1, got -0.1"),
        ({"method": "area"}, "method must be one of nearest, bilinear"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(field, message):
    with pytest.raises(ValueError, match=message):
        RandomResizing(**field)
