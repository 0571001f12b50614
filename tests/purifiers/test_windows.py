"""Images of any size in windows of few sizes."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxpurify import gradients
from jaxpurify.models import Repeat, Sequential, purifier
from jaxpurify.purifiers import apply
from jaxpurify.purifiers.apply import purify
from jaxpurify.purifiers.bit_depth import BitDepth
from jaxpurify.purifiers.gaussian_noise import GaussianNoise
from jaxpurify.purifiers.identity import Identity
from jaxpurify.purifiers.jpeg import JPEG
from jaxpurify.purifiers.median import Median
from jaxpurify.purifiers.ncis import NCIS, BlindSpot
from jaxpurify.purifiers.non_local_means import NonLocalMeans
from jaxpurify.purifiers.smoothing import GaussianSmoothing
from jaxpurify.purifiers.super_resolution import SuperResolution
from jaxpurify.purifiers.total_variation import TotalVariation
from jaxpurify.purifiers.wavelet import WaveletDenoising
from jaxpurify.purifiers.windows import purify_in_windows, reach_of, windows_aligned, windows_inside
from jaxpurify.testing import check_purifier, count_compilations

SIZES = ((1, 9), (7, 131), (17, 37), (70, 33))
EXACT = {
    "none": Identity(),
    "bit depth": BitDepth(),
    "median": Median(size=4),
    "non-local means": NonLocalMeans(h=0.3, patch_size=3, patch_distance=2),
    "total variation": TotalVariation(weight=0.2, iterations=3),
    "repeated": Repeat(stage=Median(), times=2),
}


@functools.cache
def networks():
    return {
        "smoothing": GaussianSmoothing(sigma=1.0),
        "many smoothings": GaussianSmoothing(sigma=0.8, iterations=9, boundary="mirror"),
        "smoothed and rounded": Sequential(GaussianSmoothing(sigma=0.6), Median()),
        "super-resolution": SuperResolution.pretrained(sigma=0),
        "super-resolution and back": SuperResolution.pretrained(sigma=0, back=True),
    }


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def pieced(stage, images):
    return purify_in_windows(stage, images, functools.partial(apply._windows, stage), most=4)


def worst(stage, images):
    whole = [np.asarray(apply._call(stage, image[None], None)[0]) for image in images]
    return max(np.abs(a - b).max() for a, b in zip(pieced(stage, images), whole, strict=True))


@pytest.mark.parametrize("name", EXACT)
def test_windows_equal_the_whole_to_the_bit(name):
    assert worst(EXACT[name], [noise(*size, 3) for size in SIZES]) == 0


@pytest.mark.parametrize("name", networks())
def test_windows_equal_the_whole_to_two_millionths(name):
    assert worst(networks()[name], [noise(*size, 3) for size in SIZES]) <= 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("make", [NCIS.pretrained, BlindSpot.pretrained])
def test_windows_of_the_blind_spot_network_equal_the_whole(make):
    assert worst(make(), [noise(*size, 3) for size in ((1, 9), (131, 140), (30, 270))]) <= 2e-6


@pytest.mark.parametrize(("subsampling", "number"), [("4:4:4", 0), ("4:2:2", 1), ("4:2:0", 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_windows_of_jpeg_are_libjpegs_whole_at_every_remainder(subsampling, number, channels):
    sizes = [(5, 5), (32, 5), *((8 + side, 32 - side) for side in range(17)), (129, 225), (131, 200), (224, 143)]
    images = [np.rint(noise(*size, channels) * 255).astype(np.uint8) for size in sizes]
    for image, found in zip(images, pieced(JPEG(quality=30, subsampling=subsampling), images), strict=True):
        file = io.BytesIO()
        Image.fromarray(image.squeeze()).save(file, "JPEG", quality=30, subsampling=number)
        np.testing.assert_array_equal(found.squeeze(), np.asarray(Image.open(file)), err_msg=str(image.shape))


@pytest.mark.parametrize("size", [*range(1, 40), 127, 128, 129, 224, 225, 511, 512, 513, 1001])
@pytest.mark.parametrize("reach", [0, 1, 4, 15, 25, 128])
def test_every_pixel_is_kept_once_and_a_reach_from_inner_edges(size, reach):
    for axis, step in ((windows_inside(size, reach), None), (windows_aligned(size, 16), 16)):
        kept = [pixel for part in axis.parts for pixel in range(part.first, part.stop)]
        assert kept == list(range(size))
        for part in axis.parts:
            end = part.start + axis.side
            assert end <= size or step
            assert part.start == 0 or part.first - part.start >= (step or reach)
            assert end >= size or end - part.stop >= (step or reach)
            assert not step or part.start % step == 0


def test_reaches_add_up_and_are_not_claimed_where_they_do_not_hold():
    assert reach_of(Sequential(Median(size=3), NonLocalMeans())) == 1 + 6
    assert reach_of(Repeat(stage=Median(size=5), times=3)) == 6
    assert reach_of(GaussianSmoothing(sigma=2.0, iterations=2)) == 16
    assert reach_of(GaussianSmoothing(sigma=1.0, iterations=100)) == 60
    assert reach_of(GaussianSmoothing(sigma=0.1)) == 0
    for stage in (
        GaussianSmoothing(sigma=1.0, iterations=0.5),
        GaussianSmoothing(sigma=100.0),
        TotalVariation(),
        WaveletDenoising(),
        GaussianNoise(),
        Sequential(Median(), GaussianNoise()),
        Sequential(Median(), JPEG()),
        Repeat(stage=JPEG(), times=2),
        NCIS(network=WaveletDenoising()),
        lambda images: images,
    ):
        assert reach_of(stage) is None
    assert reach_of(NCIS(network=Median(), passes=2)) == 2 * (4 + 1)
    seen = []
    jax.jit(lambda stage: seen.append(reach_of(stage)))(GaussianSmoothing())
    assert seen == [None]


def test_a_reach_that_is_too_small_is_found():
    @purifier
    class Mean:
        reach: int = 1

        def __call__(self, images, key=None):
            wide = jnp.pad(images, [(0, 0), (0, 0), (2, 2), (0, 0)], mode="edge")
            return (wide[:, :, :-4] + wide[:, :, 4:]) / 2

    with pytest.raises(AssertionError, match="reach more than 1 pixels"):
        check_purifier(Mean())


def test_a_reach_of_a_purifier_that_shrinks_is_refused():
    @purifier
    class Half:
        changes_size, reach = True, 1

        def __call__(self, images, key=None):
            return images[:, ::2, ::2]

    with pytest.raises(ValueError, match="Half must keep the size of images or enlarge it by a whole number"):
        purify(Half(), [noise(20 + n, 30, 3) for n in range(3)])


def test_many_sizes_share_programs_and_equal_sizes_compile_as_ever():
    stage, images = Median(size=3), [noise(40 + 3 * n, 90 - 2 * n, 3) for n in range(12)]
    expected = [np.asarray(stage(image[None])[0]) for image in images]
    with count_compilations() as compilations:
        purified = purify(stage, images)
    assert compilations.count("_purified") <= 2
    for one, other in zip(purified, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    equal = noise(5, 41, 90, 3)
    with count_compilations() as compilations:
        np.testing.assert_array_equal(purify(stage, list(equal)), np.asarray(apply._call(stage, equal, None)))
    assert compilations.count("_purified") == 2  # bucket of six, and the batch of five to compare with


def test_two_sizes_and_frequent_sizes_are_taken_whole(monkeypatch):
    seen = []
    monkeypatch.setattr(apply, "purify_in_windows", lambda stage, images, run, most: seen.extend(images) or images)
    upright, lying = noise(20, 30, 3), noise(30, 20, 3)
    purify(Median(), [upright, lying, upright])
    assert not seen
    purify(Median(), [upright] * apply.RARE + [lying, noise(25, 25, 3)])
    assert [image.shape for image in seen] == [(30, 20, 3), (25, 25, 3)]


def test_large_images_are_taken_in_windows_whatever_their_number(monkeypatch):
    monkeypatch.setattr(apply, "LARGE", 40 * 40)
    shapes = []

    @purifier
    class Watched:
        reach = 2

        def __call__(self, images, key=None):
            shapes.append(images.shape)
            return images

    image = noise(41, 70, 4)
    np.testing.assert_array_equal(purify(Watched(), image), image)
    assert max(height * width for _, height, width, _ in shapes) <= 32 * 64


def test_stages_without_a_reach_are_taken_whole_and_the_others_in_windows():
    key = jax.random.key(3)
    images = [noise(33 + n, 60 - 3 * n, 4) for n in range(3)]
    stage = Sequential(Median(), TotalVariation(), GaussianNoise(), JPEG())
    together = purify(stage, images, key=key)
    for number, (image, purified) in enumerate(zip(images, together, strict=True)):
        alone = purify(stage, image[None], key=jax.random.fold_in(key, number)[None])[0]
        assert np.abs(purified - alone).mean() < 1e-3  # a value next to a half moves its block of JPEG
        np.testing.assert_array_equal(purified[..., 3], image[..., 3])


def test_eight_bits_and_opacity_are_as_in_the_whole():
    images = [np.rint(noise(40 + n, 50 + n, 4) * 255).astype(np.uint8) for n in range(3)]
    for stage in (Median(), JPEG(), SuperResolution.pretrained(sigma=0)):
        for image, purified in zip(images, purify(stage, images), strict=True):
            alone = purify(stage, image)
            assert (purified.shape, purified.dtype) == (alone.shape, alone.dtype)
            assert np.abs(purified.astype(int) - alone.astype(int)).max() <= (stage.changes_size)


def test_wrappers_without_a_reach_are_taken_whole():
    images = [noise(20 + n, 30, 3) for n in range(4)]
    stage = gradients.straight_through(BitDepth())
    for image, purified in zip(images, purify(stage, images), strict=True):
        np.testing.assert_allclose(purified, np.asarray(BitDepth()(image[None])[0]), atol=1e-6)


def test_programs_of_sizes_are_forgotten(monkeypatch):
    monkeypatch.setattr(apply, "RARE_PROGRAMS", 3)
    stage, program = GaussianSmoothing(sigma=100.0), apply._hurried()  # which has no reach
    for n in range(3):
        purify(stage, [noise(20 + n, 30 + side, 3) for side in range(3)])
        assert program._cache_size() <= 3


def test_where_compiling_cannot_be_hurried_the_usual_program_serves(monkeypatch):
    apply._hurried.cache_clear()
    monkeypatch.setattr(apply, "quick_compilation", lambda: None)
    assert apply._hurried() is apply._call
    apply._hurried.cache_clear()
    monkeypatch.undo()
    assert apply._hurried() is not apply._call


def test_an_image_that_does_not_fit_the_memory_is_named_by_its_size():
    def enormous(images):
        side = 2**23 if images.shape[1] > 40 else 4
        return jnp.broadcast_to(images[:, :1, :1], (len(images), side, side, 3))

    with pytest.raises(MemoryError, match="an image of 41×8 pixels") as caught:
        purify(enormous, noise(41, 8, 3))
    assert "\n" not in str(caught.value)
