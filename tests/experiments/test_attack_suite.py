"""The study of the strong attacks, on a few photographs."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def study(load_study):
    return load_study("attack_suite")


def test_default_arguments_are_the_papers(study):
    config = study.Config(real=Path())
    chosen = study.attacks(config, 2 / 255)
    assert (chosen["PGD"].steps, chosen["APGD-CE"].steps, chosen["Square"].queries) == (40, 100, 1000)
    assert (chosen["AutoAttack"].steps, chosen["AutoAttack"].queries) == (100, 5000)


@pytest.mark.slow
def test_a_table_is_written(study, tmp_path):
    table = study.main(study.Config(output=tmp_path / "table.md", images=4, steps=2, queries=10))
    assert (tmp_path / "table.md").read_text() == table + "\n"
    assert "photos-cnn" in table
