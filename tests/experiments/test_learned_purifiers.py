"""The ladder of the learned purifiers, on a few photographs."""

import pytest

from jaxpurify import purifiers


@pytest.fixture(scope="module")
def study(load_study):
    return load_study("learned_purifiers")


def test_every_super_resolution_has_its_bicubic_control(study):
    chosen = [text for text in study.PURIFIERS if text.startswith("super-resolution")]
    for text in chosen:
        network = text.split("network=")[1].partition(",")[0]
        assert text.replace(network, "bicubic") in chosen


@pytest.mark.slow
def test_a_table_is_written(study, tmp_path):
    chosen = ("none", "super-resolution:network=bicubic", "ncis")
    config = study.Config(
        folder=tmp_path / "run", output=tmp_path / "table.md", purifiers=chosen, images=2, steps=1, noise_draws=1
    )
    study.main(config)
    text = (tmp_path / "table.md").read_text()
    assert [line.split("|")[1].strip(" `") for line in text.splitlines() if line.startswith("| `")] == list(chosen)
    assert all(purifiers.make(name) for name in chosen)
