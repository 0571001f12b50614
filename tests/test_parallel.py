import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import keys as jk
from jaxpurify.parallel import placement, resolve
from jaxpurify.testing import count_compilations


def test_two_virtual_devices_are_at_hand():
    assert len(jax.devices("cpu")) == 2


def test_devices_are_resolved():
    first, second = jax.local_devices()[:2]
    assert resolve(None) == (first,)
    assert resolve("all") == tuple(jax.local_devices())
    assert resolve(2) == (first, second)
    assert resolve([second]) == (second,)


@pytest.mark.parametrize("wrong", [0, 99, "some", "", (), True])
def test_devices_that_are_not_there_are_refused(wrong):
    with pytest.raises(ValueError, match="devices must be"):
        resolve(wrong)


def test_the_same_devices_share_one_placement_and_its_compiled_functions():
    def double(images):
        return images * 2

    assert placement(1) is placement(None)
    where = placement(2)
    assert where is placement("all")
    assert where.compile(double, per_image=(True,)) is where.compile(double, per_image=(True,))
    assert where.count == 2


def scale(factor, images, keys):
    noise = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(keys)
    return images * factor + noise, images.sum(axis=(1, 2, 3))


@pytest.mark.parametrize("devices", [1, 2])
def test_images_are_divided_and_everything_else_goes_everywhere(devices):
    where = placement(devices)
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 3, 5, 2)), jnp.float32)
    keys = jk.per_image(jax.random.key(0), 4)
    run = where.compile(scale, per_image=(False, True, True))
    with count_compilations() as compilations:
        for factor in (2.0, 3.0):
            placed = where.put(images)
            scaled, sums = run(np.float32(factor), placed, where.put(keys))
    assert compilations.count("scale") == 1
    assert len(placed.sharding.device_set) == devices
    assert len(scaled.sharding.device_set) == devices
    expected, expected_sums = jax.jit(scale)(np.float32(3.0), images, keys)
    np.testing.assert_array_equal(scaled, expected)
    np.testing.assert_array_equal(sums, expected_sums)


@pytest.mark.parametrize("devices", [1, 2])
def test_donated_images_are_used_up(devices):
    where = placement(devices)

    def halve(images):
        return images / 2

    run = where.compile(halve, per_image=(True,), donate=(0,))
    images = where.put(np.ones((2, 3, 3, 1), np.float32))
    halved = run(images)
    np.testing.assert_array_equal(halved, np.full((2, 3, 3, 1), 0.5))
    assert images.is_deleted()
