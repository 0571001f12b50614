"""Frequency masks as purifiers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify.images import saturate
from jaxpurify.purifiers.frequency import LowPass, RandomFrequencyMask
from jaxpurify.testing import check_purifier
from jaxpurify.transforms.frequency_mask import low_pass, random_frequency_mask

IMAGES = jnp.asarray(np.random.default_rng(0).random((2, 9, 12, 3)), jnp.float32)


def test_they_are_the_transforms_saturated():
    key = jax.random.key(0)
    expected = saturate(random_frequency_mask(IMAGES, key, min_radius=0.2, max_radius=0.3, transform="fft"))
    np.testing.assert_allclose(
        RandomFrequencyMask(min_radius=0.2, max_radius=0.3, transform="fft")(IMAGES, key), expected
    )
    np.testing.assert_allclose(LowPass(radius=0.3)(IMAGES), saturate(low_pass(IMAGES, radius=0.3)))


def test_only_one_mask_for_the_batch_couples_images():
    assert not RandomFrequencyMask().couples_images
    assert RandomFrequencyMask(per_image=False).couples_images


@pytest.mark.parametrize(
    "purifier", [RandomFrequencyMask(transform="fft"), RandomFrequencyMask(per_image=False), LowPass(transform="fft")]
)
def test_their_other_forms_keep_the_contract(purifier):
    check_purifier(purifier)


def test_the_low_pass_default_keeps_as_much_as_the_random_mask():
    distance = np.hypot(*np.mgrid[:224, :224]) / np.hypot(224, 224)
    assert 0.54 <= (distance <= LowPass().radius).mean() <= 0.59


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandomFrequencyMask(min_radius=0.0), "above 0 and at most 1"),
        (lambda: RandomFrequencyMask(max_radius=1.5), "above 0 and at most 1"),
        (lambda: RandomFrequencyMask(min_radius=0.6), "at most max_radius"),
        (lambda: RandomFrequencyMask(transform="dwt"), "transform must be one of dct, fft"),
        (lambda: LowPass(radius=2.0), "above 0 and at most 1"),
    ],
)
def test_a_person_cannot_construct_nonsense(make, words):
    with pytest.raises(ValueError, match=words):
        make()
