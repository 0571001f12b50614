"""What ``evaluate`` says of models that hide, that return NaN, and that draw: a right number, or a warning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpurify as jp
from jaxpurify.evaluation import adaptive, blackbox
from jaxpurify.evaluation.findings import lede
from jaxpurify.models import purifier

from . import planted

EPSILON, COUNT, CLASSES = 0.08, 16, 5
KEY = jax.random.key(0)
IMAGES = np.random.default_rng(1).uniform(0.2, 0.8, (COUNT, 6, 6, 3)).astype(np.float32)
WEIGHTS = np.random.default_rng(0).normal(size=(108, CLASSES)).astype(np.float32)
PGD = jp.attacks.PGD(epsilon=EPSILON, steps=10)
IDENTITY = {"none": jp.purifiers.Identity()}


def linear(weights, images):
    return (images - 0.5).reshape(images.shape[0], -1) @ weights


SOUND = jp.classifier(linear, WEIGHTS)
LABELS = np.asarray(linear(WEIGHTS, IMAGES)).argmax(axis=1).astype(np.int32)


def evaluate(model, purifiers=IDENTITY, *, data=(IMAGES, LABELS), **options):
    defaults = {"attacks": PGD, "threat_models": ("full",), "key": KEY, "noise_draws": 10, "progress": False}
    return jp.evaluate(model, purifiers, data, **(defaults | options))


def left(found, threat, name="none"):
    return found.worst(name, [threat]).mean()


@pytest.mark.parametrize(
    "plant", [planted.one_hot, planted.half_logits, planted.floored, planted.ripple, planted.tiny_logits]
)
def test_a_classifier_that_hides_is_broken_or_said_to_hide(plant):
    found = evaluate(plant(SOUND), threat_models=("full", blackbox(queries=20)))
    worst = found.worst_case("none").fraction
    if worst > 0.1:
        assert found.flags
        assert "at most" in found.table(width=200)
        assert "at most" in lede(found)
        assert found.summary()["purifiers"]["none"]["at_most"]
    assert found.summary()["purifiers"]["none"]["agreement"]["rho"]


def test_a_sound_classifier_is_broken_and_not_flagged():
    found = evaluate(SOUND, {"gs": jp.purifiers.GaussianSmoothing(sigma=0.5)}, threat_models=("noise", "bpda", "full"))
    assert found.worst_case("none").fraction < 0.1
    assert found.flags == []
    assert "at most" not in found.table(width=200)
    assert "none 1.00 1.00, gs 1.00 1.00" in found.table(width=200)


def test_gradient_attacks_have_no_figure_where_the_classifier_has_no_gradient():
    square, mine = jp.attacks.Square(epsilon=EPSILON, queries=50), jp.ThreatModel("mine", target=jp.Defended)
    gs, threats = jp.purifiers.GaussianSmoothing(sigma=0.5), ("blind", "bpda", "full", mine)
    found = evaluate(planted.one_hot(SOUND), {"gs": gs}, attacks=[PGD, square], threat_models=threats)
    tried = {(r["threat_model"], r["attack"]) for r in found.records}
    assert tried == {("clean", "none")} | {(threat, "Square-50") for threat in found.threat_models}
    for name in ("none", "gs"):
        (flag,) = [flag for flag in found.flags if flag.startswith(f"{name}: ") and "not evaluated" in flag]
        assert "blind with PGD-10, bpda with PGD-10, full with PGD-10 and mine with PGD-10 are" in flag
    alone = evaluate(planted.one_hot(SOUND), {"gs": gs}, threat_models=("blind", "full", blackbox(queries=50)))
    assert {threat for _, threat in alone.reasons} == {"blind", "full"}
    row = next(line for line in alone.table(width=200).splitlines() if line.startswith("│ gs"))
    assert row.count("not evaluated") == 2
    assert "at most" in row


def test_a_purifier_without_a_gradient_is_tried_by_all_that_needs_none():
    rounding = jp.models.as_target(lambda images: jnp.round(images * 7) / 7)
    attacks = [PGD, jp.attacks.Square(epsilon=EPSILON, queries=50)]
    found = evaluate(SOUND, {"p": rounding}, attacks=attacks, threat_models=("bpda", "full"))
    assert {r["attack"] for r in found.records if (r["purifier"], r["threat_model"]) == ("p", "full")} == {"Square-50"}
    assert "p: its exact gradient is zero; full is evaluated only without it" in found.flags
    assert found.worst_case("p").fraction == 0 or "at most" in found.table(width=200)


@pytest.mark.slow
def test_adaptive_tries_what_needs_no_gradient_and_gives_an_upper_bound():
    found = evaluate(planted.one_hot(SOUND), threat_models=("full", adaptive(steps=5, queries=100)))
    assert left(found, "adaptive") < 1
    assert any(flag.startswith("none: adaptive with Adaptive gives an upper bound") for flag in found.flags)


def test_adaptive_is_handed_surrogates():
    (attack,) = adaptive(surrogates=[SOUND]).attacks_for({"PGD": PGD}).values()
    assert len(attack.surrogates) == 1


def test_a_model_of_decisions_is_attacked_without_gradients():
    def decide(weights, images):
        return jnp.arange(CLASSES) == linear(weights, images).argmax(axis=1)[:, None]

    attacks = [PGD, jp.attacks.Square(epsilon=EPSILON, queries=50)]
    with jax.numpy_rank_promotion("allow"):
        found = evaluate(jp.classifier(decide, WEIGHTS), attacks=attacks)
    assert found.clean("none").fraction == 1
    assert found.skipped == {
        ("none", "full", "PGD-10"): "its outputs are integers or truth values, which have no gradient"
    }
    assert "at most" in found.table(width=200)


def close_to_clean(images):
    """Say which images are among the clean ones, but for a little noise."""
    return (jnp.abs(images[:, None] - IMAGES[None]) < 0.001).all(axis=(2, 3, 4)).any(axis=1)


# The images that the classifier is surest of: nothing in a small ball fools it of these.
_MARGINS = np.diff(np.sort(linear(WEIGHTS, IMAGES), axis=1)[:, -2:], axis=1)[:, 0]
SUREST = np.argsort(-_MARGINS)[:4]


@purifier
class Nan:
    """Give NaN in the place of four images where they are attacked, and a little noise where it is random."""

    noise: float = jp.static(0.0)

    @property
    def random(self):
        return self.noise > 0

    def __call__(self, images, key=None):
        near = (jnp.abs(images[:, None] - IMAGES[SUREST][None]) < 0.1).all(axis=(2, 3, 4)).any(axis=1)
        hidden = near & ~close_to_clean(images)
        images = jnp.where(hidden[:, None, None, None], jnp.full_like(images, jnp.nan), images)
        if not self.random:
            return images
        return images + self.noise * jax.vmap(lambda k: jax.random.normal(k, images.shape[1:]))(key)


@pytest.mark.parametrize("noise", [0.0, 1e-4])
@pytest.mark.parametrize("threat", ["full", "noise"])
def test_nan_under_attack_is_not_a_defence(noise, threat):
    small = jp.attacks.PGD(epsilon=0.004, steps=5)
    found = evaluate(SOUND, {"nan": Nan(noise=noise)}, attacks=small, threat_models=(threat,))
    assert found.clean("nan").fraction == 1
    records = [r for r in found.records if r["purifier"] == "nan" and r["threat_model"] == threat]
    ways = ("mean", "worst", "majority") if noise else ("single",)
    assert {r["scoring"] for r in records} == set(ways)
    for record in records:
        if record["image"] in SUREST:
            assert (record["correct"], record["selection"], record["status"]) == (0, 0, 2)
    # Without a purifier they stand.
    bare = found.worst("none", [threat])
    assert (bare[SUREST] == 1).all()
    assert (found.worst("nan")[SUREST] == 0).all()
    assert any(flag.startswith(f"nan: {threat} with") and "at 4 of 16 images" in flag for flag in found.flags)


def test_minus_infinity_is_the_logit_of_a_class_that_cannot_win():
    def masked(low):
        def apply(weights, images):
            return jnp.concatenate([linear(weights, images), jnp.full((len(images), 3), low, jnp.float32)], axis=1)

        return evaluate(jp.classifier(apply, WEIGHTS), threat_models=("noise", "full"))

    infinite, low = masked(-np.inf), masked(-1e9)
    assert infinite.clean("none").fraction == 1
    assert infinite.worst_case("none") == low.worst_case("none")
    assert {r["status"] for r in infinite.records} <= {0, 1}


@pytest.mark.parametrize(("value", "named"), [(np.nan, "NaN"), (np.inf, "plus infinity")])
def test_what_a_clean_image_must_not_give_is_named(value, named):
    def apply(weights, images):
        third = (images == IMAGES[3]).all(axis=(1, 2, 3))[:, None]
        return jnp.where(third, jnp.asarray(value, jnp.float32), linear(weights, images))

    with jax.numpy_rank_promotion("allow"), pytest.raises(ValueError, match=rf"clean images \({named} at image 3\)"):
        evaluate(jp.classifier(apply, WEIGHTS))


@purifier
class Coin:
    """Blacken an image in a fifth of all draws, which differ with the image: nothing can be found that is worse."""

    random = True

    def __call__(self, images, key=None):
        bits = (images * 2.0**20).astype(jnp.uint32).sum(axis=(1, 2, 3), dtype=jnp.uint32)
        kept = jax.vmap(lambda k, b: jax.random.bernoulli(jax.random.fold_in(k, b), 0.8))(key, bits)
        return jnp.where(kept[:, None, None, None], images, jnp.zeros_like(images))


@pytest.mark.parametrize(
    "threats",
    [("noise", "full"), pytest.param(("blind", "bpda", "full", blackbox(queries=50)), marks=pytest.mark.slow)],
    ids=["few", "all"],
)
def test_a_random_model_that_nothing_can_attack_keeps_its_clean_accuracy(threats):
    images = np.random.default_rng(0).uniform(0.9, 0.95, (400, 2, 2, 1)).astype(np.float32)
    sure = jp.classifier(lambda images: jnp.stack([images.sum((1, 2, 3)) - 1.0, 1.0 - images.sum((1, 2, 3))], axis=1))
    found = jp.evaluate(
        sure,
        {"coin": Coin()},
        (images, np.zeros(400, np.int32)),
        attacks=[jp.attacks.PGD(epsilon=0.03, steps=3), jp.attacks.FGSM(epsilon=0.0)],
        threat_models=threats,
        batch_size=400,
        noise_draws=5,
    )
    clean = found.clean("coin").fraction
    assert clean == pytest.approx(0.8, abs=0.01)
    assert found.worst_case("coin").fraction == pytest.approx(clean, abs=0.01)
    for threat in found.threat_models:
        assert left(found, threat, "coin") == pytest.approx(clean, abs=0.01)
    assert not [flag for flag in found.flags if "leaves more standing" in flag or "identity" in flag]


def test_an_attack_that_does_nothing_costs_nothing():
    attacks = {"one": jp.attacks.PGD(epsilon=0.0, steps=1), "two": jp.attacks.FGSM(epsilon=0.0)}
    found = evaluate(SOUND, {"coin": Coin()}, attacks=attacks, threat_models=("blind", "full"))
    clean = found.clean("coin")
    assert 0 < clean.fraction < 1
    assert found.worst_case("coin") == clean
    for threat in found.threat_models:
        for attack in attacks:
            assert found.robust("coin", threat, attack, 0.0) == clean
    verdict = jp.attacks.verdict(attacks["one"], jp.Defended(SOUND, Coin()), IMAGES, LABELS, KEY)
    assert verdict.draw_accuracy == pytest.approx(clean.fraction, abs=1e-5)


@pytest.mark.parametrize("defence", [jp.purifiers.GaussianSmoothing(sigma=0.5), jp.purifiers.GaussianNoise(sigma=0.1)])
def test_a_verdict_and_an_evaluation_agree(defence):
    attack = jp.attacks.PGD(epsilon=0.02, steps=5)
    found = evaluate(SOUND, {"p": defence}, attacks=attack)
    verdict = jp.attacks.verdict(attack, jp.Defended(SOUND, defence), IMAGES, LABELS, KEY, batch_size=COUNT)
    assert 0 < verdict.draw_accuracy < 1
    assert verdict.draw_accuracy == pytest.approx(found.robust("p", "full", "PGD-5", 0.02).fraction, abs=1e-6)
    assert verdict.draw_accuracy == pytest.approx(left(found, "full", "p"), abs=1e-6)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_gaussian_noise_raises_no_flag(seed):
    threats = ("noise", "blind", "bpda", "full", blackbox(queries=50))
    noise = {"noise": jp.purifiers.GaussianNoise(sigma=0.1)}
    images = np.random.default_rng(seed).uniform(0.2, 0.8, (48, 6, 6, 3)).astype(np.float32)
    labels = np.asarray(linear(WEIGHTS, images)).argmax(axis=1)
    options = {"attacks": jp.attacks.PGD(epsilon=0.02, steps=10), "threat_models": threats}
    found = evaluate(SOUND, noise, data=(images, labels), key=jax.random.key(seed), **options)
    assert found.flags == []
    assert 0.05 < found.worst_case("noise").fraction < 0.95


def test_a_threat_model_without_an_attack_in_a_norm_names_the_attack_that_brought_it():
    attack = jp.attacks.PGD(norm="l1", epsilon=2.0, steps=2)
    with pytest.raises(ValueError, match=r"threat model 'blackbox' has no attack in the ball of 'PGD-2 l1' \(l1\)"):
        evaluate(SOUND, attacks=attack, threat_models=("full", "blackbox"))


SIZES = np.where(np.arange(COUNT) % 2 == 0, 0.0, 0.08).astype(np.float32)


@pytest.mark.parametrize("batch_size", [16, 5])
def test_every_image_has_its_own_size(batch_size):
    attack = jp.attacks.PGD(epsilon=SIZES, steps=10)
    found = evaluate(SOUND, attacks=attack, threat_models=("noise", "full"), batch_size=batch_size)
    records = [r for r in found.records if r["threat_model"] == "full"]
    np.testing.assert_allclose([r["epsilon"] for r in records], SIZES, rtol=1e-5)
    assert all(r["distance"] <= r["epsilon"] + 1e-6 for r in records)
    np.testing.assert_array_equal(found.worst("none", ["full"]), SIZES == 0)
    assert found.cells("none", "full") == [("PGD-10", pytest.approx(0.04))]
    assert "PGD-10 at one size per image, mean 0.04" in found.table(width=200)
    twice = evaluate(SOUND, attacks=jp.attacks.PGD(epsilon=0.08, steps=10))
    np.testing.assert_array_equal(found.worst("none", ["full"])[1::2], twice.worst("none")[1::2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": jp.attacks.PGD(epsilon=SIZES[:3])}, r"one for each of the 16 images, got shape \(3,\)"),
        ({"attacks": jp.attacks.PGD(epsilon=SIZES), "epsilons": (0.1,)}, "epsilons must be left out"),
    ],
)
def test_sizes_that_do_not_fit_the_images_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(SOUND, **options)
