import json

import numpy as np
import pytest

from jaxpurify.environment import environment
from jaxpurify.evaluation import run_folder
from jaxpurify.evaluation.run_folder import COLUMNS, RunFolder

CONFIG = {
    "data": {"name": "here/photos.npz", "images": 2, "sha256": "aa"},
    "classifier": {"name": "net", "weights": "bb"},
    "attacks": {"PGD-40": "PGD()"},
    "key": [0, 0],
    "answers": {"none": [1.0, -20.0]},
}


def changed(**values):
    return CONFIG | values


def record(**values):
    return dict.fromkeys(COLUMNS, 0) | {"purifier": "gs, or so", "prediction": ""} | values


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    run_folder.write_whole(path, lambda file: file.write(b"first"))

    def fail(file):
        file.write(b"half")
        raise RuntimeError("full disk")

    with pytest.raises(RuntimeError, match="full disk"):
        run_folder.write_whole(path, fail)
    assert path.read_bytes() == b"first"
    assert [child.name for child in path.parent.iterdir()] == ["file.txt"]


def test_records_come_back_with_six_digits(tmp_path):
    given = record(image=3, epsilon=8 / 255, loss=float("nan"), correct=0.85, prediction=7, margin=-1.23456789e-9)
    run_folder.write_csv(tmp_path / "r.csv", [given, record(image=np.int64(4), label=np.uint8(2))])
    first, second = run_folder.read_csv(tmp_path / "r.csv")
    assert (first["epsilon"], first["correct"], first["margin"]) == (0.0313725, 0.85, -1.23457e-9)
    assert np.isnan(first["loss"])
    assert (first["image"], first["prediction"], first["purifier"]) == (3, "7", "gs, or so")
    assert (second["image"], second["label"]) == (4, 2)
    text = (tmp_path / "r.csv").read_bytes()
    run_folder.write_csv(tmp_path / "r.csv", [first, second])
    assert (tmp_path / "r.csv").read_bytes() == text
    assert {k: v for k, v in run_folder.rounded(given).items() if k != "loss"} == {
        k: v for k, v in first.items() if k != "loss"
    }


@pytest.mark.parametrize("text", ["", "image,label\n1,2\n", ",".join(COLUMNS) + "\n1,2\n", "\xff\x00"])
def test_records_that_are_none_are_refused(tmp_path, text):
    (tmp_path / "r.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"r\.csv"):
        run_folder.read_csv(tmp_path / "r.csv")
    with pytest.raises(ValueError, match="cannot be read"):
        run_folder.read_csv(tmp_path / "absent.csv")


def test_names_that_differ_have_files_that_differ():
    names = [("a", "b-c"), ("a-b", "c"), ("a--b", "c"), ("A", "b-c"), ("σ", 1), ("ε", 1), ("x" * 200,), ("x" * 201,)]
    slugs = {run_folder.unique_slug(*name) for name in names}
    assert len(slugs) == len(names)
    assert all(len(slug) < 140 and slug.isascii() and "/" not in slug for slug in slugs)


def test_config_says_where_and_with_what_it_ran(tmp_path):
    RunFolder(tmp_path / "run", CONFIG)
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["arguments"] == CONFIG
    assert {"jax", "numpy", "python", "machine", "platform", "device"} <= written["environment"].keys()
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.json", "parts"]


def test_the_same_evaluation_is_taken_up_again(tmp_path):
    RunFolder(tmp_path, CONFIG)
    before = (tmp_path / "config.json").read_bytes()
    RunFolder(tmp_path, CONFIG)
    moved = changed(data=CONFIG["data"] | {"name": "/elsewhere/photos.npz"}, classifier={"name": "n", "weights": "bb"})
    RunFolder(tmp_path, moved)
    RunFolder(tmp_path, changed(answers={"none": [1.0002, -20.001]}))
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (changed(key=[0, 1]), "other key:"),
        (changed(attacks={"PGD-40": "PGD(steps=3)"}, key=[1, 1], answers={}), "other attacks, key:"),
        (changed(classifier={"name": "net", "weights": "cc"}), "other classifier:"),
        (changed(data=CONFIG["data"] | {"sha256": "ab"}), "other data:"),
        (changed(noise_draws=3), "other noise draws:"),
        (changed(answers={"none": [1.01, -20.0]}), "answer otherwise on the first image"),
        (changed(answers={"none": [1.0]}), "answer otherwise on the first image"),
    ],
)
def test_another_evaluation_is_refused_naming_what_differs(tmp_path, other, named):
    RunFolder(tmp_path, CONFIG)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=named) as caught:
        RunFolder(tmp_path, other)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "config.json").read_bytes() == before


def test_other_versions_are_written_down_when_a_run_is_taken_up(tmp_path, monkeypatch):
    RunFolder(tmp_path, CONFIG)
    first = environment()
    monkeypatch.setattr(run_folder, "environment", lambda: first | {"jax": "9.9"})
    RunFolder(tmp_path, CONFIG)
    RunFolder(tmp_path, CONFIG)
    config = run_folder.read_config(tmp_path)
    assert config["environment"] == first
    assert config["taken_up_in"] == [first | {"jax": "9.9"}]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"jobs": 3}', '{"arguments": [], "environment": {}}'])
def test_a_config_of_something_else_is_left_alone(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"no readable config\.json"):
        RunFolder(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == text


def test_an_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written: Not a directory; choose another with run="):
        RunFolder(tmp_path / "file" / "run", CONFIG)
