"""The study of the purifiers that need no training: selection, ladder and table, on a few photographs."""

import dataclasses
import json

import jax
import pytest

from jaxpurify import purifiers


@pytest.fixture(scope="module")
def study(load_study):
    return load_study("training_free")


def test_every_candidate_can_be_made(study):
    for specifications in study.CANDIDATES.values():
        for specification in specifications:
            purifiers.make(specification)


def test_every_registered_purifier_is_in_the_table(study):
    # The crops appear as the ensemble, and what is learned has studies of its own.
    left_out = {"none", "random-crop", "ncis", "blind-spot", "super-resolution"}
    named = {specification.partition(":")[0] for each in study.CANDIDATES.values() for specification in each}
    assert named | left_out >= set(purifiers.names())


def test_parameters_are_selected_on_training_images_and_scored_on_others(study, tmp_path, capsys, monkeypatch):
    tried = {name: study.CANDIDATES[name][:2] for name in ("bit-depth", "gaussian-noise")}
    monkeypatch.setattr(study, "CANDIDATES", tried)
    config = study.Config(
        folder=tmp_path / "run",
        output=tmp_path / "table.md",
        purifiers=tuple(tried),
        images=4,
        training_images=4,
        steps=1,
        eot_samples=2,
        noise_draws=2,
        batch_size=4,
    )
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        study.main(config)
        selected = (tmp_path / "run/selection.json").read_bytes()
        study.main(config)  # takes up what is there
        assert (tmp_path / "run/selection.json").read_bytes() == selected
        with pytest.raises(ValueError, match="holds an evaluation with other"):
            study.main(dataclasses.replace(config, purifiers=("bit-depth",), seed=1))
        assert json.loads((tmp_path / "run/selection.json").read_text())["settings"]["seed"] == 1  # selected anew
    (tmp_path / "run/selection.json").write_bytes(selected)
    selection = json.loads((tmp_path / "run/selection.json").read_text())
    for name, chosen in selection["chosen"].items():
        tried = selection["measured"][name]
        assert set(tried) == set(study.CANDIDATES[name])
        assert sum(tried[chosen]) == max(sum(figures) for figures in tried.values())
    text = (tmp_path / "table.md").read_text()
    assert text in capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")]
    assert rows == ["`none`", *(f"`{chosen}`" for chosen in selection["chosen"].values())]
    assert "Parameters selected on 4 training images, scored on test images." in text
