import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks
from jaxpurify.attacks.apgd import APGD
from jaxpurify.attacks.autoattack import AutoAttack
from jaxpurify.attacks.fab import FAB
from jaxpurify.attacks.square import Square
from jaxpurify.metrics.norms import perturbation_norms
from jaxpurify.models import classifier
from jaxpurify.testing import count_compilations

KEY = jax.random.key(0)
SHORT = {"steps": 10, "queries": 60}
STANDARD = AutoAttack(epsilon=0.05, **SHORT)


def names(attack, classes, target=len):
    return [part.name for part in attack.parts(target, classes)]


def test_versions_are_those_of_the_paper():
    assert names(AutoAttack(), 10) == ["APGD-CE", "APGD-T", "FAB-T", "Square"]
    plus = AutoAttack(version="plus").parts(len, 10)
    assert [part.name for part in plus] == ["APGD-CE", "APGD-DLR", "APGD-T", "FAB", "FAB-T", "Square"]
    assert [part.attack.restarts for part in plus] == [5, 5, 1, 5, 1, 1]
    assert names(AutoAttack(version="rand"), 10) == ["APGD-CE", "APGD-DLR"]
    standard = {part.name: part.attack for part in AutoAttack().parts(len, 10)}
    assert (standard["APGD-CE"].steps, standard["APGD-CE"].loss, standard["APGD-CE"].restarts) == (
        100,
        "cross-entropy",
        1,
    )
    assert (standard["APGD-T"].loss, standard["APGD-T"].target_classes) == ("dlr", 9)
    assert (standard["FAB-T"].steps, standard["FAB-T"].target_classes) == (100, 9)
    assert standard["Square"].queries == 5000


def test_a_random_target_is_attacked_with_expectations_and_with_fixed_randomness(noisy):
    assert [part.attack.eot.samples for part in AutoAttack().parts(noisy.target, 2)] == [20, 20]
    for part in AutoAttack(version="standard").parts(noisy.target, 2):
        first = part.target(noisy.images)
        np.testing.assert_array_equal(part.target(noisy.images, jax.random.key(5)), first)
        np.testing.assert_array_equal(part.target(noisy.images[3:]), first[3:])  # in any row


@pytest.mark.parametrize("classes", [2, 3, 4, 200])
def test_any_number_of_classes_has_its_attacks(classes):
    aimed = {part.name: part.attack for part in AutoAttack(version="plus").parts(len, classes)}
    assert aimed["APGD-T"].target_classes == aimed["FAB-T"].target_classes == min(9, classes - 1)
    assert aimed["APGD-T"].loss == ("dlr" if classes >= 4 else "margin")
    assert ("APGD-DLR" in aimed) == (classes >= 3)


@pytest.fixture(scope="module")
def judged(toy):
    return attacks.verdict(STANDARD, toy.target, toy.images, toy.labels, KEY)


@pytest.fixture(scope="module")
def shown(toy):
    return attacks.run(STANDARD, toy.target, toy.images, toy.labels, KEY, batch_size=16)


def test_tallies_add_up_to_one_headline(judged):
    assert list(judged.tallies) == ["clean", "APGD-CE", "APGD-T", "FAB-T", "Square"]
    assert judged.tallies["clean"] == 1
    assert sum(judged.tallies.values()) == judged.fooled.sum()
    assert 0.2 < judged.robust_accuracy < 0.8
    np.testing.assert_array_equal(judged.stood, ~judged.fooled)


def test_no_more_images_stand_than_against_any_of_its_parts(toy, judged):
    for part in STANDARD.parts(toy.target, 5):
        alone = attacks.verdict(part.attack, toy.target, toy.images, toy.labels, KEY)
        assert (judged.fooled >= alone.fooled).all(), part.name


def test_images_to_show_are_of_the_full_budget(toy, judged, shown):
    """An early exit would leave images at the boundary; these are the worst that any part found."""
    np.testing.assert_array_equal(shown.success | ~judged.fooled, True)
    logits = np.asarray(toy.target(shown.images))
    others = np.where(np.eye(5, dtype=bool)[toy.labels], -np.inf, logits).max(axis=1)
    np.testing.assert_allclose(shown.margin, logits[np.arange(16), toy.labels] - others, atol=1e-5)
    for part in STANDARD.parts(toy.target, 5):
        alone = attacks.run(part.attack, toy.target, toy.images, toy.labels, KEY, batch_size=16)
        both = shown.success & alone.success
        assert (shown.margin[both] <= alone.margin[both] + 1e-5).all(), part.name


def test_minimal_norm_images_are_extended_to_the_edge_of_the_ball(toy):
    fab = FAB(norm="l2", steps=10)
    custom = AutoAttack(epsilon=2.0, norm="l2", version="custom", attacks=(fab,))
    found = attacks.run(dataclasses.replace(fab, epsilon=2.0), toy.target, toy.images, toy.labels, KEY, batch_size=16)
    extended = attacks.run(custom, toy.target, toy.images, toy.labels, KEY, batch_size=16)
    nearest, norms = (perturbation_norms(toy.images, r.images, norm="l2") for r in (found, extended))
    moved = found.success & (nearest > 0.01)
    assert moved.sum() >= 5
    assert (norms[moved] > nearest[moved] + 0.05).all()
    assert (extended.margin[found.success] <= found.margin[found.success]).all()
    np.testing.assert_array_equal(extended.success, found.success)


def test_it_can_be_jitted(toy, shown):
    run = jax.jit(lambda target, images, labels, key: STANDARD(target, images, labels, key))
    result = run(toy.target, toy.images, toy.labels, KEY)
    np.testing.assert_array_equal(result.success, shown.success)
    np.testing.assert_allclose(result.margin, shown.margin, atol=1e-3)
    assert result.images.shape == toy.images.shape


def test_same_key_same_images_bit_for_bit_in_any_order_and_on_any_number_of_devices(toy, shown):
    again = attacks.run(STANDARD, toy.target, toy.images, toy.labels, KEY, batch_size=16)
    np.testing.assert_array_equal(again.images, shown.images)
    two = attacks.run(STANDARD, toy.target, toy.images, toy.labels, KEY, batch_size=16, devices="all")
    np.testing.assert_array_equal(two.images, shown.images)
    order = np.random.default_rng(0).permutation(16)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(KEY, jnp.arange(16, dtype=jnp.uint32))
    shuffled = attacks.run(STANDARD, toy.target, toy.images[order], toy.labels[order], keys[order], batch_size=16)
    np.testing.assert_array_equal(shuffled.images, shown.images[order])


def test_verdicts_agree_across_batch_sizes_but_for_margins_within_rounding(toy, judged, shown):
    other = attacks.run(STANDARD, toy.target, toy.images, toy.labels, KEY, batch_size=4)
    assert (np.abs(shown.margin[other.success != judged.fooled]) < 1e-5).all()


def test_success_never_falls_as_epsilon_grows(toy):
    fooled = []
    for epsilon in (0.0, 0.01, 0.02, 0.04, 0.08):
        attack = dataclasses.replace(STANDARD, epsilon=epsilon)
        fooled.append(attacks.verdict(attack, toy.target, toy.images, toy.labels, KEY).fooled)
    for less, more in itertools.pairwise(fooled):
        assert (more >= less).all()
    assert fooled[0].sum() == 1
    assert fooled[-1].sum() > fooled[1].sum()


def test_each_attack_is_compiled_once_a_bucket_whatever_is_attacked(toy):
    attack = AutoAttack(epsilon=0.03, steps=11, queries=50)
    with count_compilations() as compilations:
        attacks.verdict(attack, toy.target, toy.images, toy.labels, KEY, batch_size=16)
        attacks.verdict(attack, toy.target, 1 - toy.images, toy.labels, jax.random.key(1), batch_size=16)
        attacks.verdict(
            dataclasses.replace(attack, epsilon=0.1), toy.target, toy.images[:9], toy.labels[:9], KEY, batch_size=16
        )
    assert compilations.count("advance") <= 4 * 4


def lucky(weights, images, key):
    """Logits that no perturbation changes, wrong in one draw of five."""
    del weights
    flipped = jax.vmap(lambda k: jax.random.bernoulli(k, 0.2))(key)
    first = jnp.where(flipped, -1.0, 1.0) + 1e-3 * jnp.tanh(images.mean(axis=(1, 2, 3)))
    return jnp.stack([first, -first, jnp.full_like(first, -2.0)], axis=1)


@pytest.mark.parametrize("version", ["auto", pytest.param("standard", marks=pytest.mark.slow)])
def test_a_random_model_is_not_called_broken_by_lucky_draws(version):
    """Planted: each draw is right with a chance of 80 %, whatever the attack does."""
    target = classifier(lucky, np.zeros(1, np.float32), random=True)
    images = np.random.default_rng(0).uniform(size=(64, 4, 4, 3)).astype(np.float32)
    attack = AutoAttack(epsilon=0.1, version=version, **SHORT)
    found = attacks.verdict(attack, target, images, np.zeros(64, np.int32), KEY)
    assert found.draw_accuracy == pytest.approx(0.8, abs=4 * np.sqrt(0.8 * 0.2 / (64 * 20)))
    assert found.robust_accuracy == 1
    assert sum(found.tallies.values()) == 0


def test_a_random_model_that_can_be_fooled_is(noisy):
    attack = AutoAttack(epsilon=0.3, steps=20)
    found = attacks.verdict(attack, noisy.target, noisy.images, noisy.labels, KEY)
    clean = attacks.verdict(dataclasses.replace(attack, epsilon=0.0), noisy.target, noisy.images, noisy.labels, KEY)
    assert found.draw_accuracy < clean.draw_accuracy - 0.3
    assert found.robust_accuracy < clean.robust_accuracy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": -0.1}, "at least 0"),
        ({"epsilon": 8.0}, "divide by 255"),
        ({"norm": "l3"}, "norm must be one of"),
        ({"version": "strong"}, "version must be one of"),
        ({"version": "custom"}, "belong together"),
        ({"attacks": (attacks.PGD(),)}, "belong together"),
        ({"version": "custom", "attacks": (attacks.PGD(norm="l2"),)}, "of norm linf, got PGD of l2"),
        ({"version": "custom", "attacks": (1,)}, "must hold attacks"),
        ({"steps": 0}, "steps must be an integer"),
        ({"queries": 0}, "queries must be an integer"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        AutoAttack(**arguments)


def test_l1_runs_apgd_alone(toy):
    attack = AutoAttack(epsilon=3.0, norm="l1", steps=10)
    parts = attack.parts(toy.target, 5)
    assert [part.name for part in parts] == ["APGD-CE", "APGD-T"]
    assert isinstance(parts[0].attack, APGD)
    found = attacks.verdict(attack, toy.target, toy.images, toy.labels, KEY)
    assert found.fooled.sum() > 1


def test_parts_can_be_any_attacks(toy):
    attack = AutoAttack(epsilon=0.03, version="custom", attacks=(attacks.FGSM(), attacks.FGSM(), Square(queries=20)))
    found = attacks.verdict(attack, toy.target, toy.images, toy.labels, KEY)
    assert list(found.tallies) == ["clean", "FGSM", "FGSM (2)", "Square-20"]
    assert found.tallies["FGSM (2)"] == 0
