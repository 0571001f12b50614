import pytest

from jaxpurify.evaluation import table

LEFT = {
    "none": {"noise": 44, "blind": 2, "bpda": 1, "substitute": 1, "full": 2},
    "gs [red]x": {"noise": 43, "blind": 20, "bpda": 9, "substitute": 8, "full": 6},
}


def test_a_wide_table_has_intervals_beside_the_shares(make_run):
    text = table.render(make_run(LEFT), width=160)
    line = next(line for line in text.splitlines() if "gs [red]x" in line)
    cells = [cell.strip() for cell in line.split("│")]
    assert cells[1:3] == ["gs [red]x", "90.0 [78.6, 95.7]"]
    assert cells[-2] == "12.0 [5.6, 23.8]"


def test_a_table_fits_the_terminal(make_run):
    text = table.render(make_run(LEFT), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "gs [red]x" in text
    assert "79–96" in text
    assert "substitute" in text


def test_a_demonstration_says_that_it_is_no_evidence(make_run):
    evaluation = make_run(LEFT, demonstration=True)
    assert "toy on 50 images of squares — demonstration, not evidence" in table.render(evaluation, width=80)
    assert "! demonstration, not evidence" in evaluation.table()


def test_a_missing_figure_is_not_a_number(make_run):
    evaluation = make_run({"none": {"full": 3}, "round": {}}, reasons=[("round", "full", "zero gradient")])
    assert table.rows(evaluation)[1] == ["round", "90.0 [78.6, 95.7]", "not evaluated", "not evaluated"]


def test_a_masked_gradient_is_written_beside_the_name(make_run):
    found = make_run({"none": {"bpda": 1, "full": 6}, "mask": {"bpda": 1, "full": 7}})
    assert [row[0] for row in table.rows(found)] == ["none", "mask (masked)"]
    assert [row[-1].startswith("at most ") for row in table.rows(found)] == [False, True]
    assert found.flags[0].startswith("mask: masked: full (14.0%) leaves more standing than bpda (2.0%)")
    assert not any(flag.startswith("none: masked") for flag in found.flags)


@pytest.mark.parametrize(
    ("epsilon", "text"), [(8 / 255, "8/255"), (0.0313725, "8/255"), (0.5, "0.5"), (0.01, "0.01"), (1.0, "1")]
)
def test_sizes_are_written_as_the_field_writes_them(epsilon, text):
    assert table.size(epsilon) == text
