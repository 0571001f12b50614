"""Random crops against Pillow's crop and resize."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxpurify import keys as jk
from jaxpurify.purifiers.random_crop import RandomCrop
from jaxpurify.testing import check_gradient, check_purifier, count_compilations

PHOTO = np.random.default_rng(0).random((12, 10)).astype(np.float32)
IMAGES = jnp.asarray(np.repeat(PHOTO[None, :, :, None], 512, axis=0))
KEYS = jk.per_image(jax.random.key(0), 512)


def test_every_draw_is_pillows_crop_resized_and_all_places_are_as_likely():
    height, width = 6, 5  # half of 12 and of 10 pixels
    crops = {
        (top, left): np.asarray(
            Image.fromarray(PHOTO[top : top + height, left : left + width]).resize((10, 12), Image.Resampling.BILINEAR)
        )
        for top in range(7)
        for left in range(6)
    }
    found = np.asarray(RandomCrop(share=0.5)(IMAGES, KEYS))[..., 0]
    distances = np.abs(found[:, None] - np.stack(list(crops.values()))[None]).max(axis=(2, 3))
    assert distances.min(axis=1).max() < 1e-6
    counts = np.bincount(distances.argmin(axis=1), minlength=42)
    # The sum of squares has 41 degrees of freedom: 75 is exceeded once in a thousand.
    assert np.sum((counts - 512 / 42) ** 2) / (512 / 42) < 75


def test_the_papers_crop_of_224_pixels_has_90():
    ramp = jnp.broadcast_to(jnp.arange(224, dtype=jnp.float32)[None, :, None, None] / 224, (1, 224, 224, 1))
    crop = np.asarray(RandomCrop()(ramp, KEYS[:1]))[0, :, 0, 0] * 224
    np.testing.assert_allclose(crop[-1] - crop[0], 89, atol=1e-3)


def test_the_whole_image_is_a_crop():
    np.testing.assert_allclose(RandomCrop(share=1.0)(IMAGES[:1], KEYS[:1]), IMAGES[:1], atol=1e-7)


def test_new_shares_do_not_compile_anew():
    with count_compilations() as compilations:
        run = jax.jit(lambda purifier, images, keys: purifier(images, keys))
        for share in (0.2, 0.4, 1.0):
            run(RandomCrop(share=share), IMAGES[:2], KEYS[:2])
    assert compilations.count("<lambda>") == 1


def test_the_exact_gradient_is_there(x64):
    images, keys = jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.8, (2, 7, 9, 2))), KEYS[:2]
    check_gradient(lambda x: RandomCrop(share=0.6)(x, keys), images)


@pytest.mark.slow
def test_it_keeps_the_contract():
    check_purifier(RandomCrop())
    check_purifier(RandomCrop(method="bicubic"), size=(32, 32), channels=1)
    check_purifier(RandomCrop(), size=(1, 7))


@pytest.mark.slow
def test_it_keeps_the_contract_in_float64(x64):
    check_purifier(RandomCrop(), size=(8, 9), channels=1)


@pytest.mark.parametrize("share", [0.0, 1.1, float("nan")])
def test_a_share_that_is_no_crop_is_refused(share):
    with pytest.raises(ValueError, match=f"share must be above 0 and at most 1, got {share}"):
        RandomCrop(share=share)
