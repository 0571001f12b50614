import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxpurify.datasets import load, names


def test_names_can_be_loaded():
    assert [load(name, limit=1).name for name in names()] == ["photos"]


@pytest.mark.parametrize("name", ["./nothing", "/nowhere/at/all", "nothing/", Path("nothing"), "no such thing"])
def test_a_path_that_does_not_exist_is_refused(name):
    with pytest.raises(ValueError, match=r"does not exist: expected \"photos\", a .npz file"):
        load(name)


def test_an_unknown_name_says_what_is_possible(tmp_path):
    with pytest.raises(ValueError, match=r"no data set 'cifarten'.*photos.*\.npz.*folder.*tensorflow.org") as caught:
        load("cifarten", data_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "data.txt").write_text("1 2 3")
    with pytest.raises(ValueError, match="is a file, expected"):
        load(tmp_path / "data.txt")


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(ValueError, match="limit must be an integer of at least 1"):
        load("photos", limit=limit)


def test_an_unknown_option_names_those_there_are(tmp_path):
    with pytest.raises(TypeError, match=r"has no option 'resize': its options are labels, class_names, size"):
        load(tmp_path, resize=3)
    with pytest.raises(TypeError, match="it has no options"):
        load("photos", size=3)


def test_a_file_is_not_shadowed_by_a_name(tmp_path, monkeypatch):
    np.savez(tmp_path / "photos.npz", images=np.zeros((1, 2, 2, 1), np.uint8), labels=[0])
    monkeypatch.chdir(tmp_path)
    assert load("photos.npz").images.shape == (1, 2, 2, 1)


def test_importing_imports_nothing_heavy():
    heavy = ["tensorflow", "tensorflow_datasets", "skimage", "PIL", "matplotlib"]
    program = f"import sys, jaxpurify.datasets; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
