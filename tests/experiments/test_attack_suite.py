"""The study of the strong attacks, on a few photographs."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "experiments/attack_suite.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("attack_suite", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
