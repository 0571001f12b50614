"""``jaxpurify evaluate`` and ``jaxpurify report``."""

import json
import pickle
import shutil

import jax
import numpy as np
import pytest

from jaxpurify import datasets, evaluation, networks
from jaxpurify.attacks import PGD, RandomNoise
from jaxpurify.cli.evaluate import averaged, default_folder
from jaxpurify.gradients import Expectation
from jaxpurify.networks import weights
from jaxpurify.purifiers import BitDepth

TINY = ("--limit", 4, "--attack", "pgd:steps=2,epsilon=4/255", "--purifier", "bit-depth:bits=2", "--batch-size", 2)
BLIND = (*TINY, "--threat-model", "blind", "--epsilons", "2/255")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A small evaluation, made by the library."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        evaluation.evaluate(
            networks.load_classifier("photos-cnn"),
            {"bit-depth:bits=2": BitDepth(bits=2.0)},
            datasets.load("photos", limit=4),
            attacks=PGD(steps=2, epsilon=4 / 255, eot=Expectation(samples=20, chunk=5)),
            threat_models=("blind",),
            key=jax.random.key(0),
            run=run,
            batch_size=2,
            devices="all",
            epsilons=(2 / 255,),
            noise_draws=1_000,
            progress=False,
        )
    return run


def test_the_command_does_what_the_library_does(cli, finished, tmp_path):
    code, out, err = cli("evaluate", *BLIND, "--run", "run")
    assert (code, err) == (0, "")
    assert "demonstration, not evidence" in out
    assert "bit-depth:bits=2" in out
    assert out.splitlines()[-1].endswith("run/report.html")
    assert (tmp_path / "run/report.html").exists()
    assert (tmp_path / "run/records.csv").read_bytes() == (finished / "records.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_the_same_command_goes_on_where_it_stopped(cli, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    for name in ("records.csv", "report.html", "summary.json"):
        (tmp_path / "run" / name).unlink()
    part = sorted((tmp_path / "run/parts").iterdir())[-1]
    part.unlink()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/parts").iterdir()}
    code, out, err = cli("evaluate", *BLIND, "--run", "run")
    assert (code, err) == (0, "")
    assert "The report, taken up where it was left, after " in out
    assert (tmp_path / "run/records.csv").read_bytes() == (finished / "records.csv").read_bytes()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_the_folder_of_another_run_is_refused(refused, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    error = refused("evaluate", *BLIND, "--run", "run", "--seed", "1")
    assert "run folder run holds an evaluation with other key: give the same arguments" in error


def test_attacks_average_over_the_draws_asked_for():
    expectation = Expectation(samples=3)
    assert averaged(PGD(), expectation).eot is expectation
    noise = RandomNoise()
    assert averaged(noise, expectation) is noise


def test_every_set_of_options_has_a_folder_of_its_own():
    folders = [default_folder("photos", ["a"]), default_folder("photos", ["b"]), default_folder("some/data.npz", ["a"])]
    assert len(set(folders)) == 3
    assert all(folder.parent.name == "runs" for folder in folders)
    assert default_folder("photos", ["a"]) == folders[0]
    assert folders[2].name.startswith("data-")


def test_report_draws_everything_again(cli, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    for name in ("report.html", "summary.json"):
        (tmp_path / "run" / name).unlink()
    code, out, err = cli("report", "run")
    assert (code, err) == (0, "")
    assert "bit-depth:bits=2" in out
    assert out.splitlines()[-1] == "The report: run/report.html"
    assert (tmp_path / "run/report.html").exists()
    assert json.loads((tmp_path / "run/summary.json").read_text()) == summary


def test_report_refuses_what_is_no_run(refused, tmp_path):
    (tmp_path / "folder").mkdir()
    assert "is it the folder of an evaluation?" in refused("report", "folder")
    assert "is it the folder of an evaluation?" in refused("report", "absent")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--purifier", "smoothing"), "unknown purifier 'smoothing'"),
        (("--purifier", "bit-depth", "--purifier", "bit-depth"), "given twice"),
        (("--purifier", "none=bit-depth"), 'the name "none" is kept'),
        (("--attack", "cw"), "unknown attack 'cw'"),
        (("--attack", "pgd:steps=0"), "steps must be"),
        (("--attack", "pgd:epsilon=-8/255"), "epsilon"),
        (("--attack", "pgd:epsilon=8"), "255"),
        (("--attack", "pgd:epsilon=many"), "expected a number"),
        (("--epsilons", "-2/255"), "epsilon"),
        (("--epsilons", "2"), "255"),
        (("--epsilons", "two"), "expected a number"),
        (("--threat-model", "white-box"), "unknown threat model 'white-box'"),
        (("--noise-draws", "0"), "draws must be"),
        (("--classifier", "vgg"), "vgg"),
        (("--data", "cifar10"), "needs a --classifier, expected one of: photos-cnn"),
        (("--data", "absent.npz", "--classifier", "photos-cnn"), "does not exist"),
        (("--data", "absent/folder", "--classifier", "photos-cnn"), "there is no data set 'absent/folder'"),
        (("--split", "validation"), "no split 'validation'"),
        (("--limit", "0"), "limit must be an integer of at least 1"),
        (("--weights", "absent.safetensors"), "no weight file"),
        (("--devices", "99"), "devices must be from 1 to"),
        (("--devices", "some"), "--devices must be all or a number"),
        (("--batch-size", "0"), "--batch-size must be at least 1"),
    ],
)
def test_bad_options_are_refused(refused, options, words):
    assert words in refused("evaluate", *(() if "--limit" in options else ("--limit", 4)), *options)


def test_a_run_folder_that_cannot_be_written_is_refused(refused, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert "cannot be written" in refused("evaluate", *BLIND, "--run", "file/run")


def test_damaged_and_dangerous_weights_are_refused(refused, tmp_path):
    weights.save(networks.load_module("photos-cnn"), tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "truncated" in refused("evaluate", *BLIND, "--weights", "cut.safetensors")

    class Danger:
        def __reduce__(self):
            return open, (str(tmp_path / "written by a pickle"), "w")

    (tmp_path / "danger.safetensors").write_bytes(pickle.dumps({"state_dict": Danger()}))
    assert "pickle" in refused("evaluate", *BLIND, "--weights", "danger.safetensors")
    error = refused("evaluate", *BLIND, "--classifier", "cifar-resnet20", "--weights", "whole.safetensors")
    assert "do not fit cifar-resnet20" in error
    assert "they fit photos-cnn" in error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a | {"images": a["images"] * 255}, "divide by 255"),
        (lambda a: a | {"images": a["images"] - 0.5}, "must be in [0, 1]"),
        (lambda a: a | {"images": np.where(a["images"] > 0.5, np.nan, a["images"])}, "NaN"),
        (lambda a: a | {"images": a["images"].transpose(0, 3, 1, 2)}, "channels first?"),
        (lambda a: a | {"images": a["images"][:0], "labels": a["labels"][:0]}, "empty batch"),
        (lambda a: a | {"labels": a["labels"][:2]}, "one label an image"),
        (lambda a: a | {"labels": a["labels"] + 8}, "labels"),
        (lambda a: a | {"labels": a["labels"] - 5}, "labels"),
        (lambda a: a | {"labels": a["labels"] / 2}, "integers"),
        (lambda a: {"images": a["images"]}, "labels is missing"),
        (lambda a: a | {"labels": np.array([None] * 4)}, "pickle"),
    ],
)
def test_bad_data_is_refused(refused, tmp_path, change, words):
    data = datasets.load("photos", limit=4)
    np.savez(tmp_path / "data.npz", **change({"images": data.images, "labels": data.labels}))
    assert words in refused("evaluate", "--data", "data.npz", "--classifier", "photos-cnn")


def test_truncated_data_is_refused(refused, tmp_path):
    data = datasets.load("photos", limit=4)
    np.savez(tmp_path / "whole.npz", images=data.images, labels=data.labels)
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "truncated" in refused("evaluate", "--data", "cut.npz", "--classifier", "photos-cnn")
