import json

import numpy as np
import pytest

from jaxpurify.evaluation import table
from jaxpurify.evaluation.findings import lede
from jaxpurify.evaluation.result import Evaluation
from jaxpurify.evaluation.run_folder import COLUMNS, rounded
from jaxpurify.metrics.accuracy import wilson

SIZE = 8 / 255


def cell(purifier, threat, attack, correct, *, selection=None, scoring="single", epsilon=SIZE, status=0, norm="linf"):
    selection = correct if selection is None else selection
    blank = dict.fromkeys(COLUMNS, 0.0) | {"prediction": "", "norm": norm, "label": 0, "forwards": 1, "backwards": 1}
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


@pytest.mark.parametrize("seed", range(5))
def test_worst_case_is_above_no_attack_and_not_above_clean(seed):
    found = random_cells(np.random.default_rng(seed), ("single",))
    worst = found.worst_case("none").fraction
    assert worst <= found.clean("none").fraction
    for threat in found.threat_models:
        assert worst <= found.worst("none", [threat]).mean() + 1e-12
        for attack, epsilon in found.cells("none", threat):
            assert worst <= found.robust("none", threat, attack, epsilon).fraction + 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_a_random_models_figures_are_not_above_clean(seed):
    found = random_cells(np.random.default_rng(seed), ("mean", "worst", "majority"))
    clean = found.clean("none").fraction
    assert found.worst_case("none").fraction <= clean
    for threat in found.threat_models:
        assert found.worst("none", [threat]).mean() <= clean
        assert all(found.robust("none", threat, *cell).fraction <= clean for cell in found.cells("none", threat))


def test_worst_attack_of_an_image_is_chosen_on_other_keys_than_it_is_scored_on():
    found = evaluation(
        clean("none", [1, 1, 1], "mean"),
        cell("none", "full", "A", [0.5, 0.9, 0.0], selection=[0.2, 0.9, 0.0], scoring="mean"),
        cell("none", "full", "B", [0.4, 0.1, 1.0], selection=[0.6, 0.1, 1.0], scoring="mean"),
    )
    # Choosing on the scores themselves would give 0.4 for the first image.
    np.testing.assert_allclose(found.worst("none"), [0.5, 0.1, 0.0])


def test_of_attacks_that_choose_alike_the_one_that_knows_most_scores():
    found = evaluation(
        clean("none", [1, 1], "mean"),
        cell("none", "bpda", "A", [0.6, 0.4], selection=[0.0, 0.2], scoring="mean"),
        cell("none", "full", "A", [0.0, 0.0], selection=[0.0, 0.2], scoring="mean"),
    )
    np.testing.assert_allclose(found.worst("none"), [0.0, 0.0])


def test_choosing_on_other_keys_is_not_biased():
    # A purifier that is right in half of all draws whatever the attack: six useless attacks are no better than one.
    rng = np.random.default_rng(0)
    images, draws, p = 1000, 20, 0.5
    score, select = (rng.binomial(draws, p, (6, images)) / draws for _ in range(2))
    cells = [cell("none", "full", f"A{i}", score[i], selection=select[i], scoring="mean") for i in range(len(score))]
    found = evaluation(clean("none", np.ones(images), "mean"), *cells)
    assert found.worst_case("none").fraction == pytest.approx(p, abs=0.02)
    assert score.min(axis=0).mean() < 0.4
    # Nor is the lowest of several means of the reported draws taken, which is below each of them in expectation.
    lowest = min(found.robust("none", "full", f"A{i}", SIZE).fraction for i in range(len(score)))
    assert found.worst_case("none").fraction > lowest


def test_random_models_are_scored_in_three_ways_beside_clean_images_scored_alike():
    ways = {"mean": ([0.9, 0.6], [0.4, 0.7]), "worst": ([0, 0], [0, 0]), "majority": ([1, 1], [0, 1])}
    found = evaluation(
        *(clean("none", before, way) for way, (before, _) in ways.items()),
        *(cell("none", "full", "PGD", after, scoring=way) for way, (_, after) in ways.items()),
    )
    assert found.clean("none").fraction == pytest.approx(0.75)
    assert found.clean("none", scoring="majority").fraction == 1
    assert found.robust("none", "full", "PGD", SIZE).fraction == pytest.approx((0.4 + 0.7) / 2)
    assert found.robust("none", "full", "PGD", SIZE, scoring="majority").fraction == 0.5
    (attack,) = found.summary()["purifiers"]["none"]["threat_models"]["full"]
    assert attack["majority of draws"]["clean"]["fraction"] == 1
    assert attack["worst of draws"]["robust_accuracy"]["fraction"] == 0
    assert attack["attack_success_rate"] == 0.5


def left(count, images=16):
    """Return the scores of images of which the first are right."""
    return [float(image < count) for image in range(images)]


def knowing(figures, *, random=(), **config):
    """Return an evaluation of one purifier: how many of 16 images each threat model leaves."""
    way = "mean" if random else "single"
    cells = [clean("p", left(16), way), clean("none", left(16))]
    cells += [cell("p", threat, "A", left(count), scoring=way) for threat, count in figures.items()]
    cells += [cell("none", "blind", "A", left(0))] if "blind" in figures else []
    return evaluation(*cells, **config)


@pytest.mark.parametrize(
    ("stronger", "weaker"),
    [
        ("blind", "noise"), ("bpda", "noise"), ("full", "noise"), ("blackbox", "noise"), ("mine", "noise"),
        ("blind", "transfer"), ("bpda", "blind"), ("bpda", "blackbox"), ("substitute", "bpda"), ("full", "bpda"),
        ("full", "blackbox"), ("full", "transfer"), ("full", "blind"), ("full", "substitute"), ("full", "mine"),
        ("adaptive", "full"), ("adaptive", "blackbox"), ("adaptive", "mine"), ("adaptive", "noise"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_an_attacker_who_knows_more_and_leaves_more_is_flagged(stronger, weaker, first):
    low = 1 if stronger == "bpda" else 7  # where the identity is no better than no attack, that is said instead
    figures = {stronger: low + 8, weaker: low} if first else {weaker: low, stronger: low + 8}
    found = knowing(figures)
    (flag,) = [flag for flag in found.flags if "leaves more standing" in flag]
    assert f"{stronger} ({(low + 8) / 16:.1%}) leaves more standing than {weaker} ({low / 16:.1%})" in flag
    assert found.worst_case("p").fraction == low / 16
    masked = stronger == "full"
    assert ("p: masked: " in flag) == masked == found.summary()["purifiers"]["p"]["masked"]
    row = next(row for row in table.rows(found) if row[0].startswith("p"))
    assert row[0] == ("p (masked)" if masked else "p")
    followed = {"full", "adaptive"} & {stronger, weaker}
    assert row[-1].startswith("at most ") == (masked or not followed)
    # Six of six images are beyond chance, five of five are not.
    for more in (5, 6):
        flags = knowing({stronger: low + more, weaker: low}).flags
        assert len([flag for flag in flags if "leaves more standing" in flag]) == (more == 6)


@pytest.mark.parametrize(
    ("one", "other"), [("blackbox", "blind"), ("blackbox", "transfer"), ("mine", "bpda"), ("mine", "yours")]
)
def test_attackers_who_know_other_things_are_not_compared(one, other):
    for figures in ({one: 15, other: 0}, {other: 15, one: 0}):
        assert not [flag for flag in knowing(figures).flags if "leaves more standing" in flag]


def test_of_several_attackers_who_know_less_the_one_who_leaves_the_least_is_named():
    found = knowing({"noise": 16, "blackbox": 4, "blind": 6, "bpda": 5, "full": 15})
    (flag,) = [flag for flag in found.flags if flag.startswith("p: masked")]
    assert "than blackbox (25.0%)" in flag
    (flag,) = [flag for flag in found.flags if "too weak" in flag] or [""]
    assert flag == ""


def test_an_attack_of_another_norm_or_a_larger_size_is_not_compared():
    def with_own(**options):
        mine = cell("p", "mine", "B", left(2), **options)
        return evaluation(clean("none", left(16)), clean("p", left(16)), cell("p", "full", "A", left(15)), mine)

    assert any("masked" in flag for flag in with_own().flags)
    assert any("masked" in flag for flag in with_own(epsilon=SIZE / 2).flags)
    assert with_own(epsilon=2 * SIZE).flags == []
    assert with_own(norm="l2").flags == []


def test_shares_of_draws_differ_by_chance():
    rng = np.random.default_rng(0)
    for _ in range(50):
        one, other = rng.binomial(20, 0.8, (2, 32)) / 20
        both = [cell("p", threat, "A", shares, scoring="mean") for threat, shares in (("bpda", one), ("full", other))]
        found = evaluation(clean("none", left(32, 32)), clean("p", np.ones(32), "mean"), *both)
        assert not [flag for flag in found.flags if "leaves more standing" in flag]
    # Many small shares of one sign are beyond chance, but make no image.
    both = [cell("p", t, "A", np.full(12, share), scoring="mean") for t, share in (("bpda", 0.5), ("full", 0.55))]
    assert evaluation(clean("none", left(12, 12)), clean("p", np.ones(12), "mean"), *both).flags == []
    both = [cell("p", t, "A", np.full(12, share), scoring="mean") for t, share in (("bpda", 0.5), ("full", 0.6))]
    assert evaluation(clean("none", left(12, 12)), clean("p", np.ones(12), "mean"), *both).flags != []


def test_an_identity_that_says_nothing_is_flagged_instead_of_being_compared():
    for shows in ("blackbox", "blind", "full", "adaptive"):
        found = knowing({"noise": 15, "bpda": 15, shows: 3})
        (flag,) = [flag for flag in found.flags if "bpda" in flag]
        assert flag.startswith(f"p: bpda is no better than noise, and {shows} is: the identity says nothing")
    assert not any("identity" in flag for flag in knowing({"noise": 15, "bpda": 15, "full": 14}).flags)
    assert not any("identity" in flag for flag in knowing({"noise": 16, "bpda": 9, "full": 1}).flags)


def test_an_identity_is_not_blamed_for_a_classifier_whose_gradients_lie():
    lies = agreement((0.1, 0.0), sentence="its gradients are unreliable")
    for alone, blamed in ((agreement(), True), (lies, False), (agreement(blind=True), False)):
        found = knowing({"noise": 15, "bpda": 15, "blackbox": 3}, agreement={"none": alone, "p": agreement()})
        assert any("identity" in flag for flag in found.flags) is blamed


def agreement(rho=(0.99, 0.98), *, blind=False, sentence=None):
    reliable = sentence is None and not blind
    return {"rho": list(rho), "zero": float(blind), "cosine": 1.0, "images": 8} | {
        "reliable": reliable, "blind": blind, "sentence": sentence,
    }  # fmt: skip


def test_agreement_of_gradients_is_printed_and_a_low_one_is_masked():
    found = knowing({"full": 15}, agreement={"p": agreement((-0.15, 0.38), sentence="its gradients are unreliable")})
    assert found.flags == ["p: its gradients are unreliable"]
    assert [row[0] for row in table.rows(found)] == ["p (masked)", "none"] or "p (masked)" in found.table()
    assert "at most 93.8" in found.table()
    assert "p -0.15 0.38" in found.table(width=200)
    summary = found.summary()["purifiers"]["p"]
    assert (summary["masked"], summary["at_most"], summary["agreement"]["rho"]) == (True, True, [-0.15, 0.38])
    sound = knowing({"full": 3}, agreement={"p": agreement(), "none": agreement((1.0, None))})
    assert sound.flags == []
    assert "p 0.99 0.98, none 1.00 —" in sound.table(width=200)
    assert "at most" not in sound.table()


def test_a_zero_gradient_is_an_upper_bound_unless_a_surrogate_stands_in():
    blind = {"agreement": {"p": agreement((None, None), blind=True)}, "zero_gradient": ["p"]}
    with_surrogate = knowing({"full": 9}, stand_in=["p"], **blind)
    assert "at most" not in with_surrogate.table()
    assert "masked" not in with_surrogate.table()
    without = knowing({"bpda": 9}, not_evaluated=[["p", "full", "its exact gradient is zero"]], **blind)
    assert "at most 56.2" in without.table()
    assert "p zero gradient" in without.table(width=200)
    assert "keeps at most 56.2% of the images" in lede(without)


def test_what_is_not_tried_is_said_and_bounds_what_is_left():
    tried = {"not_tried": [["p", "full", "PGD-40", "its outputs are integers"]]}
    found = knowing({"full": 9}, **tried)
    assert "p: full with PGD-40 is not evaluated: its outputs are integers" in found.flags
    assert "at most 56.2" in found.table()
    assert {"attack": "PGD-40", "not evaluated": "its outputs are integers"} in found.summary()["purifiers"]["p"][
        "threat_models"
    ]["full"]


def test_one_size_per_image_stands_under_its_mean():
    sizes = np.linspace(0.01, 0.03, 16)
    cells = [clean("none", left(16)), cell("none", "full", "PGD", left(4))]
    for record, size in zip(cells[1], sizes, strict=True):
        record["epsilon"] = float(size)
    found = evaluation(*cells, per_image_epsilon={"full": {"PGD": 0.02}})
    assert found.cells("none", "full") == [("PGD", 0.02)]
    assert found.worst_case("none").fraction == 0.25
    assert "PGD at one size per image, mean 0.02" in found.table(width=200)


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
        stand_in=["bits"],
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
        "bits: full with PGD met outputs that are not finite, or gradients, at 2 of 2 images",
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
