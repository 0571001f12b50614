import dataclasses
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks, networks
from jaxpurify.attacks.attack import Attack
from jaxpurify.evaluation import Evaluation, ThreatModel, evaluate
from jaxpurify.evaluation.table import title
from jaxpurify.models import Defended, classifier, purifier
from jaxpurify.purifiers import BitDepth, GaussianSmoothing, Identity
from jaxpurify.testing import count_compilations

COUNT, CLASSES, DRAWS, KEEP = 20, 3, 20, 0.7
EPSILON, SMALLER = 0.08, 0.04
KEY = jax.random.key(5)
rng = np.random.default_rng(0)
WEIGHTS = np.float32(rng.normal(size=(64, CLASSES)))
IMAGES = np.float32(rng.uniform(size=(COUNT, 8, 8, 1)))


def apply(weights, images):
    return (images - 0.5).reshape(images.shape[0], -1) @ weights


MODEL = classifier(apply, WEIGHTS, name="toy")
LABELS = np.asarray(apply(WEIGHTS, IMAGES)).argmax(axis=1)
LABELS[:2] = (LABELS[:2] + 1) % CLASSES  # two that the classifier gets wrong
PGD = attacks.PGD(epsilon=EPSILON, steps=4)


@purifier
class Round:
    """Rounds to eight levels and hides that it does."""

    def __call__(self, images, key=None):
        return jnp.round(images * 7) / 7


@purifier
class Coin:
    """Blackens an image with one probability, whatever the image."""

    random = True
    keep: float = KEEP

    def __call__(self, images, key=None):
        kept = jax.vmap(lambda k: jax.random.bernoulli(k, self.keep))(key)
        return jnp.where(kept[:, None, None, None], images, jnp.zeros_like(images))


def coins(purpose):
    """Toss, image by image, the coins of the stream (purpose, image, restart, step, draw)."""
    number = {"select": 2, "score": 3}[purpose]

    @jax.vmap
    def toss(image):
        key = jax.random.fold_in(KEY, image)
        for part in (number, 0, 0):
            key = jax.random.fold_in(key, part)
        draws = jax.vmap(lambda draw: jax.random.fold_in(key, draw))(jnp.arange(DRAWS, dtype=jnp.uint32))
        return jax.vmap(lambda k: jax.random.bernoulli(k, KEEP))(draws)

    return np.asarray(toss(jnp.arange(COUNT, dtype=jnp.uint32))).T


def expected(purpose):
    """Return whether each clean image is right behind the coin, shape (draws, images)."""
    seen = np.asarray(apply(WEIGHTS, IMAGES)).argmax(axis=1) == LABELS
    black = np.asarray(apply(WEIGHTS, np.zeros_like(IMAGES))).argmax(axis=1) == LABELS
    return np.where(coins(purpose), seen[None], black[None])


def run(purifiers, **options):
    defaults = {"attacks": PGD, "key": KEY, "batch_size": 8, "noise_draws": 5, "progress": False}
    return evaluate(MODEL, purifiers, (IMAGES, LABELS), **(defaults | options))


@pytest.fixture(scope="module")
def searches():
    """Targets of all searches so far."""
    found, search = [], Attack.search

    def spy(self, target, problem, **options):
        found.append(target)
        return search(self, target, problem, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Attack, "search", spy)
        yield found


@pytest.fixture(scope="module")
def found(searches) -> Evaluation:
    defences = {"bits": BitDepth(bits=3.0), "round": Round(), "coin": Coin(), "twin": Coin()}
    return run(defences, epsilons=(0.0, SMALLER))


def cell(evaluation, name, threat, *, attack="PGD-4", epsilon=EPSILON, scoring=None):
    return evaluation.correct(name, threat, attack, epsilon, scoring=scoring)


def rows(evaluation, **values):
    return [r for r in evaluation.records if all(r[name] == value for name, value in values.items())]


def test_every_image_is_in_every_cell_once_and_in_order(found):
    cells = {}
    for record in found.records:
        place = record["purifier"], record["threat_model"], record["attack"], record["epsilon"], record["scoring"]
        cells.setdefault(place, []).append(record["image"])
    # Clean; noise; three sizes of bpda and full where it is evaluated, and of blind; each once, or in three scorings.
    sizes = {"none": 1 + 1 + 3 * 3, "bits": 1 + 1 + 4 * 3, "round": 1 + 1 + 2 * 3, "coin": 3 * (1 + 1 + 3 * 3)}
    for name, size in sizes.items():
        assert sum(place[0] == name for place in cells) == size
    assert all(images == list(range(COUNT)) for images in cells.values())
    assert {(r["image"], r["label"]) for r in found.records} == set(enumerate(LABELS.tolist()))


def test_clean_scores_are_those_of_the_models(found):
    predicted = np.asarray(apply(WEIGHTS, np.round(IMAGES * 7) / 7)).argmax(axis=1)
    np.testing.assert_array_equal(cell(found, "round", "clean", attack="none", epsilon=0.0), predicted == LABELS)
    assert found.clean("none").fraction == (COUNT - 2) / COUNT
    assert [r["prediction"] for r in rows(found, purifier="round", threat_model="clean")] == list(map(str, predicted))


def test_a_hidden_gradient_stands_against_noise_but_not_against_who_goes_around_it(found):
    undefended = found.worst("none").mean()
    assert undefended <= 0.3
    assert found.worst("round", ["noise"]).mean() > 0.6
    for name, threat in (("round", "bpda"), ("bits", "bpda"), ("bits", "substitute"), ("bits", "full")):
        assert found.worst(name, [threat]).mean() <= undefended + 0.05


def test_a_zero_gradient_without_surrogate_has_no_figure_under_full(found):
    assert ("round", "full") in found.reasons
    assert not rows(found, purifier="round", threat_model="full")
    line = next(line for line in found.table(width=200).splitlines() if "round" in line and "│" in line)
    assert line.split("│")[-3].strip() == "not evaluated"
    assert "round: its exact gradient is zero; full is not evaluated" in found.flags


def test_a_zero_gradient_with_surrogate_has_a_flagged_figure_under_full(found):
    np.testing.assert_array_equal(cell(found, "bits", "full"), cell(found, "bits", "substitute"))
    assert "bits: its exact gradient is zero; full uses its surrogate" in found.flags
    assert ("coin", "substitute") in found.reasons


def test_random_models_are_scored_on_twenty_keys_of_their_own(found):
    right = expected("score")
    assert 0 < right.mean() < 1
    for name in ("coin", "twin"):
        clean = {way: cell(found, name, "clean", attack="none", epsilon=0.0, scoring=way) for way in ("mean", "worst")}
        np.testing.assert_allclose(clean["mean"], right.mean(axis=0), atol=1e-6)
        np.testing.assert_array_equal(clean["worst"], right.all(axis=0))
        majority = cell(found, name, "clean", attack="none", epsilon=0.0, scoring="majority")
        np.testing.assert_array_equal(majority, right.mean(axis=0) > 0.5)


def test_the_worst_attack_is_chosen_on_twenty_others(found):
    chosen = [r["selection"] for r in rows(found, purifier="coin", threat_model="clean", scoring="mean")]
    np.testing.assert_allclose(chosen, expected("select").mean(axis=0), atol=1e-6)
    assert (expected("select") != expected("score")).any()


def test_what_a_search_saw_does_not_count(found):
    # An attack of size zero changes nothing, but in many draws sees the coin fall the wrong way.
    lucky = rows(found, purifier="coin", threat_model="full", epsilon=0.0, scoring="mean")
    assert any(r["status"] == 1 and r["correct"] > 0.5 for r in lucky)
    for name in found.purifiers:
        for threat in ("blind", "bpda", "full"):
            if (name, threat) not in found.reasons:
                clean = cell(found, name, "clean", attack="none", epsilon=0.0)
                np.testing.assert_array_equal(cell(found, name, threat, epsilon=0.0), clean)


def test_attacked_images_meet_the_same_coins_as_clean_ones(found):
    # Where the attack fools the classifier and black is right, only the draws that blacken are right.
    tossed = coins("score")
    black = np.asarray(apply(WEIGHTS, np.zeros_like(IMAGES))).argmax(axis=1) == LABELS
    fooled = cell(found, "none", "blind") == 0
    share = np.where(fooled, 0, tossed.mean(axis=0)) + np.where(black, 1 - tossed.mean(axis=0), 0)
    np.testing.assert_allclose(cell(found, "coin", "blind"), share, atol=1e-6)


def test_no_rung_is_below_the_worst_case(found):
    for name in found.purifiers:
        worst = found.worst_case(name).fraction
        assert worst <= found.clean(name).fraction
        for threat in found.threat_models:
            shares = found.worst(name, [threat])
            # Of a random model's images the worst attack is chosen on other draws: it may be one of two alike.
            assert shares is None or worst <= shares.mean() + (0.1 if found.random(name) else 1e-12)


def test_larger_attacks_leave_less(found):
    for name, threat in (("none", "blind"), ("bits", "bpda"), ("coin", "full")):
        left = [found.robust(name, threat, "PGD-4", size).fraction for size in (0.0, SMALLER, EPSILON)]
        assert left[0] >= left[1] >= left[2]
        assert left[0] > left[2]


def test_blind_images_are_found_once(found, searches):
    of_classifier = [target for target in searches if not isinstance(target, Defended)]
    # Three batches of noise, and of three sizes of PGD: blind for all, bpda and full for none.
    assert len(of_classifier) == 3 * (1 + 3)
    # BitDepth's full is its substitute.
    assert len(searches) - len(of_classifier) == 3 * (4 + 3 * (4 + 1 + 2))


def test_config_says_what_was_done(found):
    config = found.config
    assert config["purifiers"]["bits"] == "BitDepth(bits=3.0)"
    assert config["undefended"] == "none"
    assert (config["batch_size"], config["buckets"], config["devices"]) == (8, [8], 1)
    assert config["key"] == [0, 5, "threefry2x32"]
    assert config["zero_gradient"] == ["bits", "round"]
    assert config["epsilons"] == [0.0, SMALLER]
    assert config["classifier"]["name"] == "toy"


def test_one_program_serves_all_sizes_and_batches():
    attack = dataclasses.replace(PGD, steps=3)
    with count_compilations() as compilations:
        run(Identity(), attacks=attack, threat_models="blind", epsilons=(0.01, 0.02, 0.03))
    assert compilations.count("advance") == 1
    with count_compilations() as compilations:
        run(Identity(), attacks=attack, threat_models=["blind"], key=jax.random.key(9), epsilons=(0.2,))
    assert compilations.count("advance") == 0


def table(records, skip=("image",)):
    return sorted(
        tuple("" if value != value else value for name, value in r.items() if name not in skip) for r in records
    )


def test_results_do_not_depend_on_the_order_of_images():
    order = rng.permutation(COUNT)
    attack = attacks.IFGSM(epsilon=EPSILON, steps=3)  # draws nothing: keys follow the place in the data
    options = {"attacks": attack, "threat_models": "bpda", "batch_size": 8, "key": KEY}
    one = evaluate(MODEL, {"bits": BitDepth(bits=3.0)}, (IMAGES, LABELS), **options)
    other = evaluate(MODEL, {"bits": BitDepth(bits=3.0)}, (IMAGES[order], LABELS[order]), **options)
    for record in other.records:
        record["image"] = int(order[record["image"]])
    assert table(one.records, skip=()) == table(other.records, skip=())


def test_results_do_not_depend_on_the_number_of_devices():
    one, two = (run({"coin": Coin()}, threat_models="full", devices=devices) for devices in (1, 2))
    assert (one.config["devices"], two.config["devices"]) == (1, 2)
    assert table(one.records, skip=()) == table(two.records, skip=())


def test_ones_own_threat_model_has_its_own_target_and_attacks():
    made = []

    def surrogate(bare, defence):
        made.append(defence)
        return lambda images: apply(WEIGHTS[:, ::-1], images)

    evaluation = run(
        {"bits": BitDepth(bits=3.0)},
        attacks={"quick": attacks.FGSM(epsilon=EPSILON), "strong": attacks.PGD(epsilon=0.5, norm="l2", steps=3)},
        threat_models=[
            "blind",
            ThreatModel("half", target=lambda bare, defence: Defended(bare, GaussianSmoothing(sigma=0.5))),
            ThreatModel("mine", target=lambda bare, _: bare, attacks={"quick": attacks.FGSM(epsilon=0.3)}),
            ThreatModel("transfer", target=surrogate, attacks=[attacks.FGSM(epsilon=EPSILON)], shared=True),
        ],
    )
    assert len(made) == 1
    assert evaluation.threat_models == ["blind", "half", "mine", "transfer"]
    assert [name for name, _ in evaluation.cells("bits", "half")] == ["quick", "strong"]
    assert {r["norm"] for r in rows(evaluation, attack="strong")} == {"l2"}
    assert evaluation.cells("bits", "mine") == [("quick", pytest.approx(0.3))]
    # The same target and name as blind's, but not the same attack.
    (mine,) = {r["distance"] for r in rows(evaluation, threat_model="mine", image=5, purifier="none")}
    assert mine > EPSILON
    gone = cell(evaluation, "none", "transfer", attack="FGSM")
    direct = cell(evaluation, "none", "blind", attack="quick")
    assert gone.mean() > direct.mean()


def test_attacks_of_one_name_in_two_threat_models_are_not_mixed_up():
    def own(name, **options):
        return ThreatModel(name, target=lambda bare, _: bare, attacks=[attacks.FGSM(**options)])

    evaluation = run(
        Identity(),
        attacks=attacks.FGSM(epsilon=EPSILON),
        threat_models=["blind", own("small", epsilon=0.02), own("margin", epsilon=EPSILON, loss="margin")],
    )
    blind, small, margin = (rows(evaluation, threat_model=name, image=4)[0] for name in evaluation.threat_models)
    assert {blind["attack"], small["attack"], margin["attack"]} == {"FGSM"}
    assert blind["distance"] == pytest.approx(EPSILON, rel=1e-4)
    assert small["distance"] == pytest.approx(0.02, rel=1e-4)
    assert margin["loss"] == pytest.approx(-margin["margin"], rel=1e-4)
    assert blind["loss"] != margin["loss"]


@purifier
class Fragile:
    """Returns NaN for images that it has not seen."""

    seen: Any

    def __call__(self, images, key=None):
        known = jnp.isclose(images[:, None], self.seen[None], atol=1e-6).all(axis=(2, 3, 4)).any(axis=1)
        return jnp.where(known[:, None, None, None], images, jnp.nan * images)


def test_what_is_not_finite_under_attack_counts_as_wrong_and_is_flagged():
    evaluation = run({"fragile": Fragile(seen=IMAGES)}, threat_models="blind", attacks=attacks.FGSM(epsilon=EPSILON))
    assert evaluation.clean("fragile").fraction > 0.5
    assert evaluation.worst_case("fragile").fraction == 0
    assert any("fragile: blind with FGSM met outputs that are not finite" in flag for flag in evaluation.flags)


@purifier
class Average:
    """Mixes every image with the others."""

    couples_images = True

    def __call__(self, images, key=None):
        return 0.9 * images + 0.1 * images.mean(axis=0, keepdims=True)


def test_coupled_images_are_said_to_be():
    evaluation = run({"mean": Average()}, threat_models="blind", attacks=attacks.FGSM(epsilon=EPSILON))
    assert any("mean: the images of a batch influence one another" in flag for flag in evaluation.flags)


def test_another_name_for_no_defence_is_understood():
    evaluation = run(
        {"bits": BitDepth(bits=3.0), "bare": Identity()}, threat_models="blind", attacks=attacks.FGSM(epsilon=EPSILON)
    )
    assert evaluation.purifiers == ["bits", "bare"]
    assert evaluation.undefended == "bare"
    undone = [
        after
        for before, hit, after in zip(
            cell(evaluation, "bare", "clean", attack="none", epsilon=0.0),
            cell(evaluation, "bare", "blind", attack="FGSM"),
            cell(evaluation, "bits", "blind", attack="FGSM"),
            strict=True,
        )
        if before and not hit
    ]
    assert evaluation.destruction("bits", "FGSM", EPSILON) == pytest.approx(np.mean(undone))


def crooked(outputs, reference):
    raise TypeError("this loss knows no logits")


class Unregistered:
    """A data set without labels."""

    images = IMAGES


GS = {"gs": GaussianSmoothing(sigma=1.0)}
BAD = {
    "uint8": ({"data": (np.uint8(IMAGES * 255), LABELS)}, TypeError, "got uint8: divide by 255"),
    "channels first": (
        {"data": (np.zeros((4, 3, 8, 8), np.float32), LABELS[:4])},
        ValueError,
        "channels first",
    ),
    "nan": ({"data": (np.where(IMAGES > 0.9, np.nan, IMAGES), LABELS)}, ValueError, "NaN or infinity in image"),
    "0-255": ({"data": (IMAGES * 255, LABELS)}, ValueError, "still in 0–255"),
    "normalised": ({"data": (IMAGES - 0.5, LABELS)}, ValueError, "normalisation belongs inside the network"),
    "empty": ({"data": (IMAGES[:0], LABELS[:0])}, ValueError, "empty batch"),
    "label out of range": ({"data": (IMAGES, LABELS + 1)}, ValueError, r"labels must be in \[0, 3\)"),
    "labels of another length": ({"data": (IMAGES, LABELS[:-1])}, ValueError, "one entry an image"),
    "one-hot": ({"data": (IMAGES, np.eye(3)[LABELS])}, TypeError, "must be an array of integers"),
    "no labels": ({"data": Unregistered()}, TypeError, "data must have images and labels"),
    "three arrays": ({"data": (IMAGES, LABELS, LABELS)}, TypeError, "or be a pair of them, got tuple"),
    "negative size": ({"epsilons": (-0.1,)}, ValueError, "at least 0, got -0.1"),
    "size of 8": ({"epsilons": (8.0,)}, ValueError, "in 0–255 units"),
    "raw key": ({"key": jax.random.PRNGKey(0)}, TypeError, "got a raw uint32 array"),
    "several keys": ({"key": jax.random.split(KEY, 3)}, ValueError, "one typed key, got an array"),
    "no key": ({"key": 3}, TypeError, "must be a typed key"),
    "unknown threat model": ({"threat_models": ["blnd"]}, ValueError, "unknown threat model 'blnd'"),
    "threat model twice": ({"threat_models": ["blind", "blind"]}, ValueError, "'blind', expected every name once"),
    "no attack": ({"attacks": []}, ValueError, "at least one attack"),
    "class of attack": ({"attacks": attacks.PGD}, TypeError, "got the class PGD"),
    "no purifier": ({"purifiers": {"x": 3}}, TypeError, "purifier 'x' must be a purifier"),
    "class of purifier": ({"purifiers": {"x": BitDepth}}, TypeError, "got the class BitDepth"),
    "nameless": ({"purifiers": [BitDepth()]}, TypeError, "mapping of names to purifiers"),
    "none": ({"purifiers": {"none": BitDepth()}}, ValueError, '"none" is kept for the undefended'),
    "draws": ({"noise_draws": 0}, ValueError, "draws must be an integer of at least 1"),
    "batch": ({"batch_size": 0}, ValueError, "batch_size must be an integer of at least 1"),
    "devices": ({"devices": 99}, ValueError, "devices must be from 1 to the"),
    "nan weights": ({"classifier": classifier(apply, WEIGHTS * np.nan)}, ValueError, "are its weights loaded"),
    "no classifier": ({"classifier": 3}, TypeError, "classifier must be callable"),
    "nan purifier": ({"purifiers": {"x": lambda x: x * jnp.nan}}, ValueError, "behind x returns NaN"),
    "single images": ({"classifier": lambda x: x.mean()}, ValueError, "pass batched=False"),
    "dlr": (
        {"classifier": classifier(apply, WEIGHTS[:, :2]), "attacks": attacks.FGSM(loss="dlr"), "labels": LABELS % 2},
        ValueError,
        "dlr loss needs more classes",
    ),
    "crooked loss": ({"attacks": attacks.FGSM(loss=crooked)}, TypeError, "this loss knows no logits"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence_before_anything_is_written(tmp_path, name):
    changed, error, message = BAD[name]
    arguments: dict[str, Any] = {
        "classifier": MODEL,
        "purifiers": {"bits": BitDepth(bits=3.0)},
        "data": (IMAGES, changed.get("labels", LABELS)),
        "attacks": PGD,
        "threat_models": ("noise", "blind"),
        "run": tmp_path / "run",
        "batch_size": 8,
        "noise_draws": 20,
    } | {key: value for key, value in changed.items() if key != "labels"}
    model, defences, data = (arguments.pop(key) for key in ("classifier", "purifiers", "data"))
    with pytest.raises(error, match=message) as caught:
        evaluate(model, defences, data, **arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_nothing_warns(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(GS, attacks=attacks.FGSM(epsilon=EPSILON), threat_models=["blind"], run=tmp_path / "run")
    assert (tmp_path / "run" / "report.html").exists()


@dataclasses.dataclass(frozen=True)
class Named:
    """A data set that says what it is."""

    images: np.ndarray
    labels: np.ndarray
    name: str = "photos"
    demonstration: bool = True
    class_names: tuple[str, ...] = ("a", "b", "c")


def test_a_demonstration_says_that_it_is_no_evidence():
    evaluation = evaluate(
        MODEL, Identity(), Named(IMAGES, LABELS), attacks=attacks.FGSM(epsilon=EPSILON), threat_models="blind", key=KEY
    )
    assert evaluation.config["class_names"] == ["a", "b", "c"]
    assert "toy on 20 images of photos — demonstration, not evidence" in title(evaluation)


@purifier
class _Nan:
    """Return NaN for dark images."""

    def __call__(self, images, key=None):
        dark = images.mean(axis=(1, 2, 3), keepdims=True) < 0.5
        return jnp.where(dark, jnp.full_like(images, jnp.nan), images)


@purifier
class _Bright:
    """Leave [0, 1]."""

    def __call__(self, images, key=None):
        return images * 255


@purifier
class _SingleKey:
    """Take one key for the batch, as one is tempted to."""

    random = True

    def __call__(self, images, key=None):
        return images + jax.random.normal(key, images.shape, images.dtype)


def _shipped():
    """Return the shipped network, in which a compiled maximum hides NaN."""
    return networks.load_classifier("photos-cnn")


def test_a_purifier_that_returns_nan_is_refused_whatever_the_network_hides():
    images = np.concatenate([np.full((4, 32, 32, 3), level, np.float32) for level in (0.25, 0.75)])
    with pytest.raises(ValueError, match="NaN or infinity"):
        evaluate(_shipped(), {"p": _Nan()}, (images, np.zeros(8, np.int32)), threat_models="blind", batch_size=8)


def test_a_purifier_that_leaves_the_range_is_flagged_and_a_single_key_is_explained():
    images, labels = np.full((4, 32, 32, 3), 0.5, np.float32), np.zeros(4, np.int32)
    attack = attacks.FGSM()
    found = evaluate(_shipped(), {"p": _Bright()}, (images, labels), attacks=attack, threat_models="blind")
    assert any("outside [0, 1]" in flag for flag in found.flags)
    with pytest.raises(ValueError, match="one an image"):
        run({"p": _SingleKey()}, attacks=attack, threat_models="blind")
    with pytest.raises(ValueError, match="at least one"):
        run({"p": _Bright()}, attacks=attack, threat_models=())
    with pytest.raises(ValueError, match="3 channels"):
        evaluate(_shipped(), {"p": _Bright()}, (images[..., :1], labels), attacks=attack)
