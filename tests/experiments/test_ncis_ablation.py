"""The ablation behind NCIS's defaults: what is selected, and that a small one runs and goes on."""

import dataclasses

import pytest


@pytest.fixture(scope="module")
def study(load_study):
    return load_study("ncis_ablation")


def shares(clean, four, eight):
    return {"clean": clean, "4/255": four, "8/255": eight}


def test_ncis_is_selected_among_what_is_no_worse_than_smoothing_on_clean_images(study):
    tried = {
        "none": {"identity": shares(1.0, 0.0, 0.0)},
        "GS": {"weak": shares(0.9, 0.3, 0.1), "strong": shares(0.8, 0.5, 0.4)},
        "NCIS, a": {"dirty": shares(0.7, 0.7, 0.7), "clean": shares(0.85, 0.5, 0.4), "cleaner": shares(0.9, 0.4, 0.3)},
        "NCIS, b": {"dirty": shares(0.5, 0.5, 0.5), "worse": shares(0.6, 0.1, 0.1)},
    }
    chosen = study.select(tried)
    assert chosen["GS"] == "strong"
    assert chosen["NCIS, a"] == "clean"  # the better mean of the two that keep smoothing's clean accuracy
    assert chosen["NCIS, b"] == "dirty"  # none does, so the best mean


def test_every_reading_is_a_task_and_every_family_a_purifier(study):
    tasks = [study.training.BlindSpot(**reading) for reading in study.READINGS.values()]
    assert len({(task.input, task.target) for task in tasks}) == len(tasks)
    families = study.candidates(study.Config(), "photos", {"GS(x) → x": study.jp.purifiers.Median()})
    assert set(families) == {"none", "GS", "BSN, GS(x) → x", "NCIS, GS(x) → x"}


@pytest.mark.slow
@pytest.mark.usefixtures("lenient")
def test_a_small_ablation_runs_and_goes_on(study, tmp_path):
    config = study.Config(folder=tmp_path / "run", steps=2, width=2, attack_steps=1, images=4, passes=(1,))
    study.main(config)
    first = (tmp_path / "run/table.md").read_text()
    assert "NCIS, GS(x) → x" in first
    study.main(dataclasses.replace(config, output=tmp_path / "again"))
    assert (tmp_path / "again/table.md").read_text() == first
