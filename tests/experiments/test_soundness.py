"""The study of planted and sound models, on a few photographs."""

import pytest


@pytest.fixture(scope="module")
def study(load_study):
    return load_study("soundness")


def test_every_plant_and_every_purifier_has_a_row(study):
    names = [case.name for case in study.cases(study.Config())]
    assert names == ["photos-cnn", *study.PLANTS, *study.PURIFIERS, "hard gate"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the target's outputs")
def test_a_table_is_written(study, tmp_path):
    table = study.main(study.Config(output=tmp_path / "table.md", images=4, steps=2))
    assert (tmp_path / "table.md").read_text() == table + "\n"
    rows = {line.split("|")[1].strip(): line for line in table.splitlines()[2:]}
    assert "its gradients are zero" in rows["decision alone"]
    assert "–" in rows["photos-cnn"]
