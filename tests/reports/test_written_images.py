"""Images rounded to 8 bits stay in the attack's ball."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpurify.metrics.norms import check_perturbations, perturbation_norms
from jaxpurify.quantise import quantised

SIZE = {"linf": 1.0, "l2": 12.0, "l1": 100.0}  # of the largest balls tried, on images of 8×8×3


def attacked(random, clean, norm, epsilon):
    """Return images in the ball, most of them on its surface, some values at the ends of [0, 1]."""
    step = random.normal(size=clean.shape) * (random.uniform(size=clean.shape) < random.uniform(0.05, 1))
    step = np.sign(step) if norm == "linf" else step
    size = perturbation_norms(np.zeros_like(step), step, norm=norm)
    step *= epsilon / np.maximum(size, 1e-12)[:, None, None, None]
    return np.clip(clean + step, 0, 1).astype(np.float32)


@given(
    seed=st.integers(0, 2**32 - 1),
    norm=st.sampled_from(["linf", "l2", "l1"]),
    share=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1e-4, 1 / 255, 2 / 255, 8 / 255])),
    grid=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_rounded_images_are_in_the_ball_or_none_of_8_bits_is(seed, norm, share, grid):
    random, epsilon = np.random.default_rng(seed), share * SIZE[norm]
    clean = random.uniform(size=(2, 8, 8, 3)).astype(np.float32)
    clean = np.rint(clean * 255).astype(np.uint8).astype(np.float32) / np.float32(255) if grid else clean
    nearest = perturbation_norms(clean, np.rint(clean * 255).astype(np.float32) / np.float32(255), norm=norm)
    images = attacked(random, clean, norm, epsilon)
    if nearest.max() > epsilon + 6e-7:
        with pytest.raises(ValueError, match="multiples of 1/255"):
            quantised(images, clean, norm=norm, epsilon=epsilon)
    elif nearest.max() < epsilon + 4e-7:
        found = quantised(images, clean, norm=norm, epsilon=epsilon)
        assert found.dtype == np.uint8
        read = found.astype(np.float32) / np.float32(255)
        assert check_perturbations(clean, read, norm=norm, epsilon=epsilon).max() <= epsilon + 1e-6
        # No value is moved further than it needs to be: from the image to the clean one and the level beyond.
        assert (read >= np.minimum(images, clean) - 1 / 255).all()
        assert (read <= np.maximum(images, clean) + 1 / 255).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_what_rounding_takes_from_an_attack_is_little(norm):
    random = np.random.default_rng(0)
    clean = random.integers(60, 196, (4, 16, 16, 3)).astype(np.float32) / np.float32(255)
    epsilon = {"linf": 7.6 / 255, "l2": 0.5, "l1": 8.0}[norm]
    images = attacked(random, clean, norm, epsilon)
    read = quantised(images, clean, norm=norm, epsilon=epsilon).astype(np.float32) / np.float32(255)
    sizes = check_perturbations(clean, read, norm=norm, epsilon=epsilon)
    assert sizes.min() > (7 / 255 - 1e-6 if norm == "linf" else 0.99 * epsilon)
    along = ((read - clean) * (images - clean)).sum() / ((images - clean) ** 2).sum()
    assert along > 0.9


def test_each_image_has_its_own_ball_and_none_where_there_is_no_epsilon():
    clean = np.full((3, 2, 2, 1), 100 / 255, np.float32)
    images = clean + np.float32(2.6 / 255)
    found = quantised(images, clean, norm="linf", epsilon=np.array([0.0, 1.5, 2.7]) / 255)
    np.testing.assert_array_equal(found[:, 0, 0, 0], [100, 101, 102])
    np.testing.assert_array_equal(quantised(images, clean, norm="linf", epsilon=None), np.full((3, 2, 2, 1), 103))


def test_an_image_on_the_edge_of_the_ball_is_rounded_to_the_nearest_level_inside():
    clean = np.array([100.4, 100.4, 100.4, 0, 255], np.float32).reshape(1, 5, 1, 1) / np.float32(255)
    images = np.array([103.3, 97.5, 101.6, 2.9, 252.1], np.float32).reshape(1, 5, 1, 1) / np.float32(255)
    found = quantised(images, clean, norm="linf", epsilon=2.9 / 255)
    np.testing.assert_array_equal(found.ravel(), [103, 98, 102, 2, 253])


def test_bad_arguments_are_refused():
    clean = np.zeros((1, 2, 2, 1), np.float32)
    with pytest.raises(ValueError, match="norm must be one of"):
        quantised(clean, clean, norm="l0", epsilon=1)
    with pytest.raises(ValueError, match="shape of the clean ones"):
        quantised(clean[:, :1], clean, norm="l2", epsilon=1)
