"""``jaxpurify train``."""

import dataclasses
import json
import re
import signal

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxpurify import training
from jaxpurify.cli import RESUMABLE
from jaxpurify.cli import train as command
from jaxpurify.training.programs import Programs

STEPS = ("--steps", 3, "--batch-size", 2, "--save-every", 2, "--no-cache")
TINY = ("super-resolution", "--features", 4, "--blocks", 1, "--patch", 8, *STEPS)


def test_without_a_kind_the_kinds_are_shown(cli):
    assert cli("train") == cli("train", "--help")
    code, out, err = cli("train")
    assert (code, err) == (0, "")
    assert all(f"  {name} " in out for name in command.KINDS)
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("kind", command.KINDS)
def test_every_field_of_the_task_and_the_recipe_is_an_option(cli, kind):
    code, out, err = cli("train", kind, "--help")
    assert (code, err) == (0, "")
    assert f"usage: jaxpurify train {kind}" in out
    tasks = (training.SuperResolution, training.BlindSpot, training.Classifier, training.Surrogate)
    task = dict(zip(command.KINDS, tasks, strict=True))[kind]
    for field in (*dataclasses.fields(task), *dataclasses.fields(training.Recipe)):
        option = field.name.replace("_", "-")
        assert f"--{option}" in out or f"--no-{option}" in out, field.name
    for option in ("data", "steps", "run", "seed", "devices", "held-out", "score-on"):
        assert f"--{option}" in out


def test_a_training_says_what_it_does_and_is_that_of_fit(cli, tmp_path):
    code, out, err = cli("train", *TINY, "--run", "new", "--seed", 5, "--devices", 1)
    assert (code, err) == (0, "")
    first, second, *_, reached, where, following = out.splitlines()
    assert first == ("Training a super-resolution network (sesr): 3 steps on 7 examples of photos, scored on 1 more")
    assert second.endswith(": new")
    assert "PSNR" in reached
    assert where == "The weights: new/weights.safetensors"
    assert following.startswith("Next: ")
    task = training.SuperResolution(features=4, blocks=1, patch=8)
    recipe = training.Recipe(**{**vars(command.SHORT), "batch_size": 2, "save_every": 2})
    training.fit(task, "photos", steps=3, run=tmp_path / "own", key=jax.random.key(5), recipe=recipe)
    found, expected = (load_file(tmp_path / run / "weights.safetensors") for run in ("new", "own"))
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.slow
def test_an_interrupted_training_goes_on_by_the_same_command(cli, tmp_path, monkeypatch):
    advance = Programs.advance

    def advanced(*arguments):
        signal.raise_signal(signal.SIGINT)
        return advance(*arguments)

    monkeypatch.setattr(Programs, "advance", advanced)
    code, out, err = cli("train", *TINY)
    assert (code, err) == (130, "jaxpurify: interrupted: the same command goes on where this one stopped\n")
    assert out.startswith("Training a super-resolution network")
    monkeypatch.setattr(Programs, "advance", advance)
    code, out, err = cli("train", *TINY)
    assert (code, err) == (0, "")
    assert out.startswith("Going on with a super-resolution network")
    (run,) = (tmp_path / "runs").iterdir()  # the same options, the same folder
    assert json.loads((run / "config.json").read_text())["from"] == "photos"
    assert (run / "weights.safetensors").is_file()
    assert "train" in RESUMABLE


@pytest.mark.slow
def test_a_surrogate_is_of_the_purifier_that_was_named(cli, tmp_path):
    options = ("--of", "bit-depth:bits=3", "--width", 4, "--blocks", 1, "--patch", 8, "--reductions", 2, "--run", "s")
    code, out, err = cli("train", "surrogate", *options, *STEPS)
    assert (code, err) == (0, "")
    assert "a surrogate network (bit-depth:bits=3)" in out
    described = json.loads((tmp_path / "s/config.json").read_text())["arguments"]["task"]
    assert "3" in described["of"]


def test_bad_input_is_refused(refused):
    assert "unknown kind 'denoiser' of training, expected one of: super-resolution" in refused("train", "denoiser")
    assert "absent" in refused("train", *TINY, "--data", "absent/")
    assert "unknown purifier" in refused("train", "surrogate", "--of", "gs", *STEPS)
    assert "steps must be an integer of at least 1, got 0" in refused("train", *TINY, "--steps", 0)
    assert "--devices must be all or a number, got 'two'" in refused("train", *TINY, "--devices", "two")


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--scale", 7, "scale must be 2, 3 or 4, got 7"),
        ("--accumulate", 3, "accumulate must divide the batch of 2, got 3"),
    ],
)
def test_a_field_out_of_its_domain_is_refused_like_any_option(cli, tmp_path, option, value, sentence):
    code, out, err = cli("train", *TINY, option, value)
    assert (code, out) == (2, "")
    assert sentence in re.sub(r"[│\s]+", " ", err)  # in a box, as where an option does not exist
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_as_many_devices_share_a_batch_as_can():
    assert len(jax.local_devices()) == 2
    for size, count in ((8, 2), (7, 1), (1, 1)):
        assert command._sharing(training.Recipe(batch_size=size)) == count
    assert command._sharing(training.Recipe(batch_size=6, accumulate=2)) == 1


def test_what_comes_next_uses_the_weights():
    where, weights = command.Where(data="cifar10"), command.Path("w.safetensors")
    said = command._next("classifier", training.Classifier(network_name="cifar-resnet20"), where, weights)
    assert said == "jaxpurify evaluate --data cifar10 --classifier cifar-resnet20 --weights w.safetensors"
    said = command._next("super-resolution", training.SuperResolution(), where, weights)
    assert said.endswith("--purifier super-resolution:network=small,weights=w.safetensors")
    said = command._next("super-resolution", training.SuperResolution(features=4), where, weights)
    assert "docs/training.md" in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["super-resolution", "blind-spot", "classifier"])
def test_the_command_that_is_named_next_works(cli, photo, kind):
    photo("photo.png", 48, 48)
    code, out, err = cli("train", kind, "--steps", 2, "--batch-size", 2, "--no-cache")
    assert (code, err) == (0, "")
    following = out.splitlines()[-1].removeprefix("Next: jaxpurify ").split()
    more = ("--limit", 4, "--noise-draws", 2, "--attack", "fgsm") if following[0] == "evaluate" else ()
    code, out, err = cli(*following, *more)
    assert (code, err) == (0, ""), err
