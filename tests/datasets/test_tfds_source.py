"""On small real data sets that the tests define, prepare as array_record and read; TensorFlow is not there."""

import importlib.util
import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxpurify.datasets import load

SHAPE = (8, 6, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (7, *SHAPE), np.uint8)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    file.seek(0)
    return file


def info(builder, *, shape=SHAPE, supervised=("image", "label")):
    features = {
        "id": tfds.features.Scalar(np.int64),
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(names=["even", "odd"]),
    }
    return tfds.core.DatasetInfo(
        builder=builder, features=tfds.features.FeaturesDict(features), supervised_keys=supervised, license="CC0"
    )


class JaxpurifyTiny(tfds.core.GeneratorBasedBuilder):
    """Seven images to test on."""

    VERSION = tfds.core.Version("1.0.0")
    prepared = 0

    def _info(self):
        return info(self)

    def _split_generators(self, dl_manager):
        type(self).prepared += 1
        return {"train": self._generate_examples(range(4)), "test": self._generate_examples(range(4, 7))}

    def _generate_examples(self, rows):
        for row in rows:
            yield row, {"id": row, "image": png(PIXELS[row]), "label": row % 2}


class JaxpurifyUneven(tfds.core.GeneratorBasedBuilder):
    """Images of two sizes, with configurations and without supervised keys."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="both"), tfds.core.BuilderConfig(name="small")]  # noqa: RUF012

    def _info(self):
        return info(self, shape=(None, None, 3), supervised=None)

    def _split_generators(self, dl_manager):
        return {"test": self._generate_examples()}

    def _generate_examples(self):
        for row in range(2):
            rows = 8 if row == 0 or self.builder_config.name == "small" else 4
            yield row, {"id": row, "image": png(PIXELS[row, :rows]), "label": row % 2}


class JaxpurifyNeedsTensorflow(tfds.core.GeneratorBasedBuilder):
    """Its images are arrays, which TensorFlow Datasets encodes with TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return info(self)

    def _split_generators(self, dl_manager):
        return {"test": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"id": 0, "image": PIXELS[0], "label": 0}


class JaxpurifyOffline(tfds.core.GeneratorBasedBuilder):
    """Its download fails."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return info(self)

    def _split_generators(self, dl_manager):
        raise ConnectionError("Name or service not known\nand more")

    def _generate_examples(self):
        yield from ()


class JaxpurifyUnlabelled(tfds.core.GeneratorBasedBuilder):
    """Numbers only."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"x": np.int64}))

    def _split_generators(self, dl_manager):
        return {"test": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"x": 1}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    tfds.builder("jaxpurify_tiny", data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def in_order_of_pixels(data):
    """Match rows with PIXELS: TensorFlow Datasets shuffles while it prepares."""
    return [int(np.argmin([np.abs(image * 255 - each).max() for each in PIXELS])) for image in data.images]


def test_a_prepared_data_set_arrives_exactly(data_dir):
    data = load("jaxpurify_tiny", split="test", data_dir=data_dir)
    rows = in_order_of_pixels(data)
    assert sorted(rows) == [4, 5, 6]
    np.testing.assert_allclose(data.images * 255, PIXELS[rows], atol=1e-4)
    np.testing.assert_array_equal(data.labels, np.array(rows) % 2)
    assert (data.class_names, data.name, data.split) == (("even", "odd"), "jaxpurify_tiny", "test")
    assert (data.licence, data.demonstration) == ("CC0", False)
    assert list((data_dir / "jaxpurify_tiny").rglob("*.array_record*"))


def test_limit_and_parts_of_splits(data_dir):
    whole = load("jaxpurify_tiny", split="train", data_dir=data_dir)
    np.testing.assert_array_equal(
        load("jaxpurify_tiny", split="train", limit=3, data_dir=data_dir).images, whole.images[:3]
    )
    np.testing.assert_array_equal(load("jaxpurify_tiny", split="train[2:]", data_dir=data_dir).images, whole.images[2:])


def test_what_is_not_prepared_is_prepared_once_as_array_record(tmp_path):
    before = JaxpurifyTiny.prepared
    first = load("jaxpurify_tiny", data_dir=tmp_path)
    again = load("jaxpurify_tiny", data_dir=tmp_path)
    assert JaxpurifyTiny.prepared == before + 1
    assert first.fingerprint() == again.fingerprint()
    assert list((tmp_path / "jaxpurify_tiny").rglob("*.array_record*"))


def test_configurations_and_sizes(tmp_path):
    with pytest.raises(ValueError, match=r"share one size.*size="):
        load("jaxpurify_uneven/both", data_dir=tmp_path)
    assert load("jaxpurify_uneven/both", data_dir=tmp_path, size=5).images.shape == (2, 5, 5, 3)
    assert load("jaxpurify_uneven/small", data_dir=tmp_path).images.shape == (2, *SHAPE)
    with pytest.raises(ValueError, match="cannot construct jaxpurify_uneven/other") as caught:
        load("jaxpurify_uneven/other", data_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_an_unknown_split_names_those_there_are(data_dir):
    with pytest.raises(ValueError, match=r"no split 'valid', expected one of: train, test") as caught:
        load("jaxpurify_tiny", split="valid", data_dir=data_dir)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_a_builder_that_needs_tensorflow_names_the_extra(tmp_path):
    with pytest.raises(ImportError, match=r"needs tensorflow.*pip install 'jaxpurify\[tensorflow\]'") as caught:
        load("jaxpurify_needs_tensorflow", data_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_failing_download_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"could not be downloaded.*Name or service not known.*network") as caught:
        load("jaxpurify_offline", data_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_files_that_only_tensorflow_reads_are_refused(data_dir, tmp_path):
    (tmp_path / "jaxpurify_tiny").mkdir()
    target = tmp_path / "jaxpurify_tiny" / "1.0.0"
    target.mkdir()
    for file in (data_dir / "jaxpurify_tiny" / "1.0.0").iterdir():
        content = file.read_bytes().replace(b'"fileFormat": "array_record"', b'"fileFormat": "tfrecord"')
        (target / file.name.replace("array_record", "tfrecord")).write_bytes(content)
    with pytest.raises(ValueError, match=r"as tfrecord files, which only TensorFlow reads.*data_dir=") as caught:
        load("jaxpurify_tiny", data_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_what_has_no_labelled_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must have an image and a class label, but its features are x"):
        load("jaxpurify_unlabelled", data_dir=tmp_path)


def test_reading_a_prepared_data_set_imports_no_tensorflow(data_dir):
    program = f"""
import sys
from jaxpurify.datasets import load
print(load("jaxpurify_tiny", data_dir={str(data_dir)!r}).images.shape, "tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(3, 8, 6, 3) False"
