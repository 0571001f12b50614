"""``jaxpurify attack``."""

import csv
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks, datasets, networks
from jaxpurify.cli import attack as module
from jaxpurify.metrics.norms import check_perturbations
from jaxpurify.models import Defended
from jaxpurify.purifiers import BitDepth

TINY = ("--limit", 4, "--attack", "pgd:steps=2,epsilon=8/255", "--batch-size", 2)


def shares(out):
    return {name: float(share) / 100 for name, share in re.findall(r"^  (\w+)[\w ]* +([\d.]+)%$", out, re.MULTILINE)}


@pytest.fixture(scope="module")
def classifier():
    return networks.load_classifier("photos-cnn")


def test_an_npz_holds_the_images_of_the_full_budget(cli, tmp_path, classifier):
    code, out, err = cli("attack", "new/adversarial.npz", *TINY, "--seed", 3)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "wrote new/adversarial.npz"
    clean, attack = datasets.load("photos", limit=4), attacks.PGD(steps=2, epsilon=8 / 255)
    expected = attacks.run(
        attack, classifier, clean.images, clean.labels, jax.random.key(3), batch_size=2, devices="all"
    )
    written = datasets.load(tmp_path / "new/adversarial.npz")
    np.testing.assert_array_equal(written.images, expected.images)
    np.testing.assert_array_equal(written.labels, clean.labels)
    assert written.class_names == clean.class_names
    with np.load(tmp_path / "new/adversarial.npz") as arrays:
        np.testing.assert_array_equal(arrays["clean"], clean.images)
        np.testing.assert_array_equal(arrays["success"], expected.success)
    assert shares(out) == {
        "clean": (np.argmax(classifier(jnp.asarray(clean.images)), axis=1) == clean.labels).mean(),
        "attacked": 1 - np.asarray(expected.success).mean(),
    }


def test_a_folder_holds_rounded_images_that_are_scored_again(cli, tmp_path, classifier):
    defence = BitDepth(bits=3)
    code, out, err = cli("attack", "images", *TINY, "--purifier", "bit-depth:bits=3", "--gradient", "bpda")
    assert (code, err) == (0, "")
    written, clean = datasets.load(tmp_path / "images"), datasets.load("photos", limit=4)
    assert np.abs(written.images - clean.images).max() <= 8 / 255 + 1e-6
    np.testing.assert_array_equal(written.labels, clean.labels)
    right = np.argmax(Defended(classifier, defence)(jnp.asarray(written.images)), axis=1) == clean.labels
    assert shares(out)["rounded"] == right.mean()
    with open(tmp_path / "images/labels.csv", newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == [clean.class_names[label] for label in clean.labels]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_an_attack_that_would_see_nothing_is_refused(refused):
    assert "try --gradient bpda" in refused("attack", "a.npz", *TINY, "--purifier", "bit-depth")


def test_bad_targets_are_refused(refused, tmp_path):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    assert "is there already" in refused("attack", "file", *TINY)
    assert "is there already" in refused("attack", "folder", *TINY)
    assert "cannot be written" in refused("attack", "file/a.npz", *TINY)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("target", ["a.npz", "folder"])
def test_a_target_that_another_process_writes_is_refused(refused, tmp_path, target):
    with module._claim(Path(target)):
        assert f"{target} is being written by process {os.getpid()} on" in refused("attack", target, *TINY)
    assert not list(tmp_path.iterdir())


def test_bad_options_are_refused(refused):
    assert "declares no surrogate" in refused(
        "attack", "a.npz", *TINY, "--purifier", "gaussian-smoothing", "--gradient", "substitute"
    )
    assert "unknown attack" in refused("attack", "a.npz", "--attack", "cw")
    assert "255" in refused("attack", "a.npz", "--attack", "pgd:epsilon=8")
    assert "unknown purifier" in refused("attack", "a.npz", "--purifier", "gs")


SEARCHES = [("pgd:steps=5,epsilon=0.01", "linf", 0.01), ("pgd:norm=l2,steps=2,epsilon=0.21", "l2", 0.21)]
SEARCHES += [("pgd:norm=l1,steps=2,epsilon=3.3", "l1", 3.3), ("fgsm:epsilon=0.003", "linf", 0.003)]
SEARCHES += [("ddn:steps=3,epsilon=0.5", "l2", 0.5)]


@pytest.mark.parametrize(("search", "norm", "epsilon"), SEARCHES)
def test_a_written_folder_is_in_the_ball_and_the_accuracy_printed_is_its_own(
    cli, tmp_path, classifier, search, norm, epsilon
):
    code, out, err = cli("attack", "out", "--limit", 8, "--attack", search, "--batch-size", 8, "--quiet")
    assert (code, err) == (0, "")
    clean, written = datasets.load("photos", limit=8), datasets.load(tmp_path / "out")
    check_perturbations(clean.images, written.images, norm=norm, epsilon=epsilon)
    logits = classifier(written.images)
    assert shares(out)["rounded"] == np.mean(np.argmax(logits, axis=1) == clean.labels)


def test_clean_images_between_levels_are_written_in_the_ball_or_refused_before_anything_is_computed(
    cli, refused, tmp_path
):
    data = datasets.load("photos", limit=4)
    images = np.clip(data.images + np.float32(0.4 / 255), 0, 1)
    np.savez(tmp_path / "between.npz", images=images, labels=data.labels)
    given = ("attack", "out", "--data", "between.npz", "--classifier", "photos-cnn", "--attack")
    error = refused(*given, "pgd:steps=1,epsilon=0.001")
    assert "epsilon must be at least 0.00157 in linf" in error
    assert ".npz" in error
    assert cli(*given, "pgd:steps=1,epsilon=0.01")[0] == 0
    check_perturbations(images, datasets.load(tmp_path / "out").images, norm="linf", epsilon=0.01)
