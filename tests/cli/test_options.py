"""Options that several commands share."""

import dataclasses

import numpy as np
import pytest

from jaxpurify import datasets
from jaxpurify.cli.options import Input, purifiers, sizes
from jaxpurify.models import Sequential


def test_purifiers_are_named_by_their_text_or_as_asked():
    made = purifiers(["bit-depth:bits=2", "gs=gaussian-smoothing:sigma=2", "both=bit-depth+gaussian-smoothing"])
    assert list(made) == ["bit-depth:bits=2", "gs", "both"]
    assert made["gs"].sigma == 2.0
    assert isinstance(made["both"], Sequential)


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="given twice"):
        purifiers(["a=bit-depth", "a=gaussian-smoothing"])


def test_sizes_are_fractions_or_numbers():
    assert sizes(["8/255", "0.5", "1"]) == (8 / 255, 0.5, 1.0)


def test_labels_are_matched_with_the_classifiers_classes_by_name(tmp_path, capsys):
    data = datasets.load("photos", limit=8)
    for name, class_names in (("same", data.class_names), ("other", data.class_names[::-1])):
        np.savez(tmp_path / f"{name}.npz", images=data.images, labels=data.labels, class_names=np.array(class_names))
        loaded, classifier = Input(data=str(tmp_path / f"{name}.npz"), classifier="photos-cnn").load()
        np.testing.assert_array_equal(loaded.labels, data.labels if name == "same" else 7 - data.labels)
        assert loaded.class_names == classifier.class_names
    assert capsys.readouterr() == ("", "")


def test_images_are_resized_where_asked(tmp_path, photo):
    for name in ("0/1.png", "1/2.png"):
        photo(name, height=11 + len(name), width=13)
    given = Input(data=str(tmp_path), classifier="photos-cnn", size=32)
    assert given.load()[0].images.shape == (2, 32, 32, 3)
    with pytest.raises(TypeError, match="has no option 'size'"):
        dataclasses.replace(given, data="photos").load()
