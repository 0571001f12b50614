import io
import pickle

import numpy as np
import pytest

from jaxpurify.datasets import load

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
LABELS = np.array([2, 0, 1, 1, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.float16])
def test_pixels_arrive_in_0_to_1(tmp_path, dtype):
    images = IMAGES if dtype == np.uint8 else (IMAGES / 255).astype(dtype)
    np.savez(tmp_path / "data.npz", images=images, labels=LABELS)
    data = load(tmp_path / "data.npz")
    np.testing.assert_allclose(data.images, IMAGES / 255, atol=3e-4 if dtype == np.float16 else 1e-7)
    np.testing.assert_array_equal(data.labels, LABELS)
    assert (data.name, data.class_names, data.demonstration) == ("data", ("0", "1", "2"), False)


def test_class_names_and_limit(tmp_path):
    np.savez_compressed(
        tmp_path / "data.npz", images=IMAGES, labels=LABELS, class_names=np.array(["x", "y", "z", "w"]), other=[1]
    )
    data = load(str(tmp_path / "data.npz"), limit=2)
    assert (len(data), data.class_names) == (2, ("x", "y", "z", "w"))


def test_classes_do_not_depend_on_the_limit(tmp_path):
    np.savez(tmp_path / "data.npz", images=IMAGES, labels=LABELS[::-1])
    assert load(tmp_path / "data.npz", limit=2).class_names == load(tmp_path / "data.npz").class_names


class Exploit:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a pickle ran')",))


def damaged(kind):
    content = io.BytesIO()
    np.savez(content, images=IMAGES, labels=LABELS)
    whole = content.getvalue()
    if kind == "truncated":
        return whole[: len(whole) // 2]
    if kind == "corrupt":
        return whole[:300] + bytes(40) + whole[340:]
    if kind == "empty":
        return b""
    if kind == "pickle":
        return pickle.dumps(Exploit())
    content = io.BytesIO()
    np.savez(content, images=np.array([Exploit()], object), labels=LABELS[:1])
    return content.getvalue()


@pytest.mark.parametrize("kind", ["truncated", "corrupt", "empty", "pickle", "pickled array"])
def test_a_damaged_or_dangerous_file_is_refused_in_one_sentence(tmp_path, kind):
    (tmp_path / "data.npz").write_bytes(damaged(kind))
    with pytest.raises(ValueError, match=r"data\.npz .*(truncated|pickle)") as caught:
        load(tmp_path / "data.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"images": IMAGES}, ValueError, "labels is missing: it has images"),
        ({"x": IMAGES, "y": LABELS}, ValueError, "images and labels is missing: it has x, y"),
        ({"images": IMAGES, "labels": LABELS[:3]}, ValueError, "one label an image"),
        ({"images": IMAGES.astype(int), "labels": LABELS}, TypeError, "uint8 or floats"),
        ({"images": IMAGES.astype(np.float32), "labels": LABELS}, ValueError, "divide by 255"),
        ({"images": IMAGES, "labels": LABELS.astype(float)}, TypeError, "integers"),
        ({"images": IMAGES, "labels": LABELS, "class_names": ["x", "y"]}, ValueError, r"\[0, 2\)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, ValueError, "empty"),
        ({"images": IMAGES[..., 0], "labels": LABELS}, ValueError, "shape"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, error, message):
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(error, match=message):
        load(tmp_path / "data.npz")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load(tmp_path / "data.npz")


def test_a_real_file_is_read_whole(real_data):
    data = load(real_data / "cifar10" / "test.npz")
    with np.load(real_data / "cifar10" / "test.npz") as file:
        np.testing.assert_array_equal(np.rint(data.images * 255), file["images"])
        np.testing.assert_array_equal(data.labels, file["labels"])
