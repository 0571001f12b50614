import json

import numpy as np
import pytest

from jaxpurify.evaluation.result import Evaluation
from jaxpurify.evaluation.run_folder import COLUMNS, rounded
from jaxpurify.metrics.accuracy import wilson

SIZE = 8 / 255


def cell(purifier, threat, attack, correct, *, selection=None, scoring="single", epsilon=SIZE, status=0):
    selection = correct if selection is None else selection
    blank = dict.fromkeys(COLUMNS, 0.0) | {"prediction": "", "norm": "linf", "label": 0, "forwards": 1, "backwards": 1}
    about = {"purifier": purifier, "threat_model": threat, "attack": attack, "epsilon": epsilon, "scoring": scoring}
    rows = enumerate(zip(correct, selection, strict=True))
    return [
        rounded(blank | about | {"image": i, "correct": float(c), "selection": float(s), "status": status})
        for i, (c, s) in rows
    ]


def clean(purifier, correct, scoring="single"):
    return cell(purifier, "clean", "none", correct, scoring=scoring, epsilon=0.0)


def evaluation(*cells, **config):
    records = [record for records in cells for record in records]
    found = list(dict.fromkeys(r["threat_model"] for r in records if r["threat_model"] != "clean"))
    arguments = {
        "data": {"name": "toy", "images": len({r["image"] for r in records})},
        "demonstration": False,
        "classifier": {"name": "net"},
        "purifiers": {r["purifier"]: "" for r in records},
        "undefended": "none",
        "threat_models": found,
        "not_evaluated": [],
        "zero_gradient": [],
        "noise_draws": 10,
    }
    return Evaluation(records=records, config=arguments | config)


LADDER = evaluation(
    clean("none", [1, 1, 1, 1, 0]),
    clean("gs", [1, 1, 1, 0, 1]),
    cell("none", "blind", "PGD", [0, 0, 0, 1, 0]),
    cell("gs", "blind", "PGD", [1, 1, 0, 1, 0]),
    cell("gs", "full", "PGD", [0, 1, 1, 0, 1]),
    cell("gs", "full", "PGD", [1, 1, 1, 0, 1], epsilon=2 / 255),
    cell("gs", "full", "FGSM", [1, 0, 1, 0, 1]),
)


def test_robust_accuracy_is_over_all_images_and_takes_no_credit_for_what_is_wrong_clean():
    assert LADDER.clean("gs") == wilson(4 / 5, 5)
    assert LADDER.robust("gs", "blind", "PGD", SIZE) == wilson(2 / 5, 5)
    assert LADDER.robust("none", "blind", "PGD", SIZE) == wilson(1 / 5, 5)
    assert LADDER.robust("gs", "full", "PGD", 2 / 255) == wilson(4 / 5, 5)


def test_worst_case_is_of_each_image_over_all_attacks_and_threat_models():
    np.testing.assert_array_equal(LADDER.worst("gs", ["full"]), [0, 0, 1, 0, 1])
    np.testing.assert_array_equal(LADDER.worst("gs"), [0, 0, 0, 0, 0])
    assert LADDER.worst_case("gs") == wilson(0.0, 5)
    assert LADDER.worst_case("none") == wilson(1 / 5, 5)


def test_destruction_and_success_rates():
    # The attack loses images 0, 1 and 2 of the four that the bare classifier gets right; the defence undoes two.
    assert LADDER.destruction("gs", "PGD", SIZE) == pytest.approx(2 / 3)
    assert LADDER.success_rate("gs", "blind", "PGD", SIZE) == pytest.approx(3 / 4)
    assert LADDER.success_rate("gs", "full", "PGD", SIZE) == pytest.approx(1 / 4)


def test_sizes_are_found_by_five_digits():
    assert LADDER.cells("gs", "full") == [("PGD", 0.0313725), ("FGSM", 0.0313725)]
    assert LADDER.cells("gs", "full", curve=True)[1] == ("PGD", 0.00784314)
    for epsilon in (SIZE, float(np.float32(SIZE)), 0.0313725):
        assert LADDER.robust("gs", "blind", "PGD", epsilon).fraction == 2 / 5
    with pytest.raises(KeyError, match=r"not evaluated under blind with PGD at 0\.5"):
        LADDER.robust("gs", "blind", "PGD", 0.5)


def random_cells(rng, ways):
    """Return an evaluation of random figures: deterministic, or random with selection apart from score."""
    images, draws = 12, 20
    cells = []
    for way in ways:
        cells += [clean("none", rng.integers(0, draws + 1, images) / draws, way)]
    for threat in ("noise", "blind", "full"):
        for attack in ("PGD", "FGSM"):
            score, select = (rng.integers(0, draws + 1, images) / draws for _ in range(2))
            for way in ways:
                cells += [cell("none", threat, attack, score, selection=select, scoring=way)]
    return evaluation(*cells)


@pytest.mark.parametrize("seed", range(20))
def test_worst_case_is_above_no_attack_and_not_above_clean(seed):
    rng = np.random.default_rng(seed)
    found = random_cells(rng, ("mean", "worst", "majority"))
    worst = found.worst_case("none").fraction
    assert worst <= found.clean("none").fraction
    for threat in found.threat_models:
        assert worst <= found.worst("none", [threat]).mean() + 1e-12
        for attack, epsilon in found.cells("none", threat):
            assert worst <= found.robust("none", threat, attack, epsilon).fraction + 1e-12


def test_worst_attack_of_an_image_is_chosen_on_other_keys_than_it_is_scored_on():
    found = evaluation(
        clean("none", [1, 1, 1], "mean"),
        cell("none", "full", "A", [0.5, 0.9, 0.0], selection=[0.2, 0.9, 0.0], scoring="mean"),
        cell("none", "full", "B", [0.4, 0.1, 1.0], selection=[0.6, 0.1, 1.0], scoring="mean"),
    )
    # Choosing on the scores themselves would give 0.4 for the first image.
    np.testing.assert_allclose(found.worst("none"), [0.5, 0.1, 0.0])


def test_choosing_on_other_keys_is_not_biased():
    # A purifier that is right in half of all draws whatever the attack: six useless attacks are no better than one.
    rng = np.random.default_rng(0)
    images, draws, p = 1000, 20, 0.5
    score, select = (rng.binomial(draws, p, (6, images)) / draws for _ in range(2))
    cells = [cell("none", "full", f"A{i}", score[i], selection=select[i], scoring="mean") for i in range(len(score))]
    found = evaluation(clean("none", np.ones(images), "mean"), *cells)
    assert found.worst_case("none").fraction == pytest.approx(p, abs=0.02)
    assert score.min(axis=0).mean() < 0.4


def test_random_models_are_scored_in_three_ways_beside_clean_images_scored_alike():
    ways = {"mean": ([0.9, 0.6], [0.4, 0.7]), "worst": ([0, 0], [0, 0]), "majority": ([1, 1], [0, 1])}
    found = evaluation(
        *(clean("none", before, way) for way, (before, _) in ways.items()),
        *(cell("none", "full", "PGD", after, scoring=way) for way, (_, after) in ways.items()),
    )
    assert found.clean("none").fraction == pytest.approx(0.75)
    assert found.clean("none", scoring="majority").fraction == 1
    assert found.robust("none", "full", "PGD", SIZE).fraction == pytest.approx((0.4 + 0.6) / 2)
    assert found.robust("none", "full", "PGD", SIZE, scoring="majority").fraction == 0.5
    (attack,) = found.summary()["purifiers"]["none"]["threat_models"]["full"]
    assert attack["majority of draws"]["clean"]["fraction"] == 1
    assert attack["worst of draws"]["robust_accuracy"]["fraction"] == 0
    assert attack["attack_success_rate"] == 0.5


def test_a_rung_weaker_than_its_left_neighbour_is_flagged():
    (flag,) = [flag for flag in LADDER.flags if "leaves more standing" in flag] or [None]
    assert flag is None
    inverted = evaluation(
        clean("none", [1, 1, 1, 1]),
        cell("none", "noise", "N", [1, 1, 1, 0]),
        cell("none", "blind", "PGD", [0, 1, 0, 0]),
        cell("none", "full", "PGD", [1, 1, 1, 0]),
    )
    (flag,) = inverted.flags
    assert flag.startswith("none: full (75.0%) leaves more standing than blind (25.0%)")
    assert inverted.worst_case("none").fraction == 0.25


def test_flags_say_what_a_reader_must_know():
    found = evaluation(
        clean("none", [1, 1]),
        clean("bits", [1, 1]),
        clean("round", [1, 1]),
        cell("bits", "full", "PGD", [0, 0], status=2),
        data={"name": "photos", "images": 9},
        demonstration=True,
        zero_gradient=["bits", "round"],
        not_evaluated=[["round", "full", "no surrogate"], ["none", "mine", "no reason"]],
        couples_images=["bits"],
    )
    text = "\n".join(found.flags)
    for sentence in (
        "demonstration, not evidence",
        "not finished: 2 of 9 images",
        "bits: its exact gradient is zero; full uses its surrogate",
        "round: its exact gradient is zero; full is not evaluated",
        "bits: the images of a batch influence one another",
        "none: mine is not evaluated: no reason",
        "bits: full with PGD met outputs that are not finite",
    ):
        assert sentence in text


def test_what_was_not_evaluated_has_no_figure():
    found = evaluation(
        clean("none", [1, 1]),
        clean("round", [1, 1]),
        cell("none", "full", "PGD", [0, 0]),
        cell("none", "bpda", "PGD", [0, 0]),
        cell("round", "bpda", "PGD", [0, 1]),
        not_evaluated=[["round", "full", "zero gradient"]],
    )
    assert found.worst("round", ["full"]) is None
    assert found.summary()["purifiers"]["round"]["threat_models"]["full"] == {"not evaluated": "zero gradient"}
    row = next(line for line in found.table(width=160).splitlines() if "round" in line and "│" in line)
    assert "not evaluated" in row
    assert found.worst_case("round").fraction == 0.5


def test_nothing_tried_has_no_worst_case():
    found = evaluation(clean("none", [1]), threat_models=["full"], not_evaluated=[["none", "full", "why"]])
    with pytest.raises(ValueError, match="no attack was tried on none"):
        found.worst_case("none")
    with pytest.raises(ValueError, match="unknown purifier 'gs', expected one of none"):
        found.worst_case("gs")


def test_summary_is_json():
    text = json.dumps(LADDER.summary(), allow_nan=False)
    assert json.loads(text)["images"] == 5


def test_a_run_without_finished_batch_is_refused(tmp_path, make_run):
    make_run({"none": {"blind": 3}})
    folder = tmp_path / "my run"
    header = (folder / "records.csv").read_text().splitlines()[0]
    (folder / "records.csv").write_text(header + "\n")
    with pytest.raises(ValueError, match="holds no record yet"):
        Evaluation.load(folder)


def test_an_unkept_evaluation_writes_nothing():
    with pytest.raises(ValueError, match="has no folder"):
        LADDER.write()
