import io
import warnings

import numpy as np
import pytest
from PIL import Image

from jaxpurify.evaluation import figures
from jaxpurify.evaluation.drawing import STYLES, png
from jaxpurify.metrics.accuracy import wilson

LEFT = {"none": {"noise": 44, "blind": 2, "full": 2}, "gs": {"noise": 43, "blind": 20, "full": 6}}


@pytest.fixture(autouse=True)
def strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def pixels(figure):
    with Image.open(io.BytesIO(png(figure))) as image:
        return np.asarray(image.convert("RGB"))


def colours(figure):
    return {"#{:02x}{:02x}{:02x}".format(*colour) for colour in np.unique(pixels(figure).reshape(-1, 3), axis=0)}


def texts(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


def test_every_line_goes_from_the_clean_accuracy_through_the_robust_ones(make_run):
    evaluation = make_run(LEFT, sizes=(4 / 255, 2 / 255))
    (panel,) = figures.accuracy_against_epsilon(evaluation).axes
    lines = {line.get_color(): line.get_xydata() for line in panel.lines if len(line.get_xydata()) > 2}
    np.testing.assert_allclose(lines[STYLES["full"][0]], [[0, 90], [2, 70], [4, 52], [8, 12]], atol=1e-4)
    np.testing.assert_allclose(lines[STYLES["blind"][0]], [[0, 90], [2, 78], [4, 64], [8, 40]], atol=1e-4)
    np.testing.assert_allclose(lines[figures.GREY], [[0, 90], [2, 68], [4, 48], [8, 4]], atol=1e-4)


def test_band_is_wilsons_interval(make_run):
    (panel,) = figures.accuracy_against_epsilon(make_run({"none": {}, "gs": {"full": 6}})).axes
    corners = {tuple(np.round(point, 3)) for point in panel.collections[0].get_paths()[0].vertices}
    for x, share in ((0, 45 / 50), (8, 6 / 50)):
        _, low, high = wilson(share, 50)
        assert {(x, round(100 * low, 3)), (x, round(100 * high, 3))} <= corners


def test_worst_case_is_drawn_at_the_attacks_size(make_run):
    (panel,) = figures.accuracy_against_epsilon(make_run(LEFT)).axes
    worst = next(line for line in panel.lines if line.get_marker() == "_")
    np.testing.assert_allclose(worst.get_xydata(), [[8, 12]], atol=1e-4)


def test_figure_needs_no_further_sizes_and_shows_every_threat_model_in_its_colour(make_run):
    left = {name: dict.fromkeys(("noise", "blind", "bpda", "substitute", "full"), 9) for name in ("none", "a", "b")}
    shown = colours(figures.accuracy_against_epsilon(make_run(left)))
    assert {STYLES[threat][0] for threat in ("noise", "blind", "full")} <= shown


def test_one_panel_a_purifier_and_one_column_on_request(make_run):
    evaluation = make_run({name: {"full": 5} for name in ("none", "a", "b", "c", "d")})
    wide, narrow = (figures.accuracy_against_epsilon(evaluation, columns=columns) for columns in (3, 1))
    assert [axes.get_title(loc="left") for axes in wide.axes] == ["a", "b", "c", "d"]
    assert wide.get_figwidth() > narrow.get_figwidth()
    assert wide.get_figheight() < narrow.get_figheight()


def test_undefended_classifier_alone_has_its_panel(make_run):
    figure = figures.accuracy_against_epsilon(make_run({"none": {"full": 5}}))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["none"]
    assert pixels(figure).std() > 10


def test_threat_model_with_an_attack_of_its_own_is_shown_in_a_colour_of_its_own(make_run):
    evaluation = make_run({"none": {}, "gs": {"blind": 20, "mine": 5}})
    style = figures.styles(evaluation.threat_models)
    assert style["blind"] == STYLES["blind"]
    assert style["mine"] not in STYLES.values()
    assert {"blind", "mine"} <= set(texts(figures.accuracy_against_epsilon(evaluation)))


def test_unusual_names_are_drawn_as_they_are(make_run):
    name = "<b>$\\frac$</b> 雪"
    figure = figures.accuracy_against_epsilon(make_run({"none": {}, name: {"full": 5}}, attack="$PGD$"))
    assert pixels(figure).std() > 10
    assert "<b>\\$\\frac\\$</b> ?" in texts(figure)


def test_size_zero_is_drawn(make_run):
    evaluation = make_run({"none": {}, "gs": {"full": 45}})
    for record in evaluation.records:
        record["epsilon"] = 0.0
    assert pixels(figures.accuracy_against_epsilon(evaluation)).std() > 10


def test_tick_labels_keep_apart_and_both_ends():
    ticks = [0.0, 1.0, 2.0, 255.0, 256.0]
    assert figures._thinned(ticks) == [0.0, 256.0]
    assert figures._thinned([0.0, 2.0, 4.0, 8.0]) == [0.0, 2.0, 4.0, 8.0]


def test_unknown_attack_is_refused(make_run):
    with pytest.raises(ValueError, match="unknown attack 'FGSM', expected one of PGD-40"):
        figures.accuracy_against_epsilon(make_run(LEFT), attack="FGSM")


def test_grid_shows_perturbation_ten_times_and_difference_about_grey(tmp_path, write_example):
    figure = figures.grid(write_example(tmp_path / "e.npz", names=("gs", "full", "PGD")), class_names=["one", "two"])
    images = [np.asarray(image.get_array()) for image in figure.axes[0].images]
    with np.load(tmp_path / "e.npz") as file:
        clean, attacked, purified = (file[name].astype(float) for name in ("clean", "attacked", "purified"))
    assert len(images) == 15
    np.testing.assert_allclose(images[6], np.clip(0.5 + 10 * (attacked[0] - clean[0]), 0, 1))
    np.testing.assert_allclose(images[12], np.clip(0.5 + (purified[0] - clean[0]), 0, 1))
    assert "purified −\nclean, × 1" in texts(figure)
    assert pixels(figure).std() > 10


def test_grid_says_what_is_predicted_and_whether_it_is_right(tmp_path, write_example):
    figure = figures.grid(write_example(tmp_path / "e.npz", names=("gs", "full", "PGD")), class_names=["one", "two"])
    drawn = texts(figure)
    assert {"one", "two", "class 2", "✓ one", "✓ two", "✓ class 2", "✗ one", "✗ not finite"} <= set(drawn)


@pytest.mark.parametrize(
    "shape",
    [
        {"size": (12, 10), "purified": (24, 20)},
        {"size": (12, 10), "purified": (5, 7)},
        {"channels": 1},
        {"channels": 4},
        {"size": (150, 300), "purified": (150, 300)},
        {"count": 1},
        {"count": 9},
    ],
)
def test_grid_takes_other_shapes(tmp_path, write_example, shape):
    drawn = pixels(figures.grid(write_example(tmp_path / "e.npz", names=("<i>", "full", "$a"), **shape)))
    assert drawn.std() > 10
    assert drawn.shape[1] < 800
    assert drawn.shape[0] < 1200


def test_grid_draws_nothing_outside_the_cells_of_its_images(tmp_path, write_example):
    figure = figures.grid(write_example(tmp_path / "e.npz", names=("gs", "full", "PGD")))
    boxes = sorted(image.get_extent() for image in figure.axes[0].images)
    for (_, right, _, _), (left, _, _, _) in zip(boxes[::3], boxes[3::3], strict=False):
        assert right < left


def test_file_that_is_no_example_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "e.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ValueError, match=r"is no example of an evaluation: expected an \.npz file"):
        figures.grid(tmp_path / "e.npz")


def test_png_is_the_same_for_the_same_figure(make_run):
    evaluation = make_run(LEFT)
    first, second = (png(figures.accuracy_against_epsilon(evaluation)) for _ in range(2))
    assert first == second
