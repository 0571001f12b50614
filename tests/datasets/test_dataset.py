import dataclasses

import numpy as np
import pytest

from jaxpurify.datasets import Dataset


def make(**changes):
    generator = np.random.default_rng(0)
    arguments = {
        "images": generator.random((6, 4, 5, 3), np.float32),
        "labels": np.array([0, 1, 2, 0, 1, 2]),
        "class_names": ("a", "b", "c"),
    }
    return Dataset(**(arguments | changes))


def test_labels_are_kept_as_int32():
    assert make(labels=np.arange(6, dtype=np.uint8) % 3).labels.dtype == np.int32


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": np.zeros((6, 4, 5, 3), np.uint8)}, TypeError, "divide by 255"),
        ({"images": np.zeros((6, 4, 5, 3), np.float64)}, TypeError, "must be float32"),
        ({"images": np.zeros((6, 3, 32, 32), np.float32)}, ValueError, "channels first"),
        ({"images": np.zeros((0, 4, 5, 3), np.float32)}, ValueError, "empty"),
        ({"images": np.full((6, 4, 5, 3), np.nan, np.float32)}, ValueError, "finite"),
        ({"images": np.full((6, 4, 5, 3), 1.00001, np.float32)}, ValueError, r"in \[0, 1\]"),
        ({"labels": np.zeros(5, int)}, ValueError, "one entry an image"),
        ({"labels": np.zeros(6)}, TypeError, "integers"),
        ({"labels": np.arange(6)}, ValueError, r"\[0, 3\)"),
        ({"labels": -np.ones(6, int)}, ValueError, r"\[0, 3\)"),
    ],
)
def test_bad_arrays_are_refused_in_one_sentence(changes, error, message):
    with pytest.raises(error, match=message) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


def test_values_may_leave_the_range_by_rounding():
    assert len(make(images=np.full((6, 4, 5, 3), 1 + 5e-7, np.float32))) == 6


@pytest.mark.parametrize("rows", [slice(1, 4), [1, 2, 3], np.array([False, True, True, True, False, False])])
def test_take_selects_images_and_their_labels(rows):
    data = make(name="mine", demonstration=True)
    part = data.take(rows)
    np.testing.assert_array_equal(part.images, data.images[1:4])
    np.testing.assert_array_equal(part.labels, [1, 2, 0])
    assert (part.class_names, part.name, part.demonstration) == (data.class_names, "mine", True)


@pytest.mark.parametrize("rows", [[7], slice(6, 9), np.zeros(5, bool)])
def test_take_refuses_rows_that_do_not_exist(rows):
    with pytest.raises(ValueError, match="rows must"):
        make().take(rows)


def test_fingerprint_tells_images_labels_and_shapes_apart():
    data = make()
    changed = data.images.copy()
    changed[5, 3, 4, 2] = np.nextafter(changed[5, 3, 4, 2], np.float32(0))
    prints = {
        data.fingerprint(),
        dataclasses.replace(data, images=changed).fingerprint(),
        dataclasses.replace(data, labels=data.labels[::-1]).fingerprint(),
        dataclasses.replace(data, images=data.images.reshape(6, 5, 4, 3)).fingerprint(),
    }
    assert len(prints) == 4
    assert dataclasses.replace(data, name="another").fingerprint() == data.fingerprint()
