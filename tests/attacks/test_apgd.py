import dataclasses
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks, keys
from jaxpurify.attacks.apgd import APGD
from jaxpurify.attacks.apgd_schedule import Halving, Now, checkpoints, halve, timetable
from jaxpurify.metrics.norms import perturbation_norms
from jaxpurify.models import as_target, classifier
from jaxpurify.testing import count_compilations

KEY = jax.random.key(0)
SIZES = {"linf": 16 / 255, "l2": 0.4, "l1": 2.0}


@pytest.mark.parametrize("steps", [10, 20, 100])
def test_checkpoints_are_the_papers_recursion(steps):
    p = [Fraction(0), Fraction("0.22")]
    while p[-1] <= 1:
        p.append(p[-1] + max(p[-1] - p[-2] - Fraction("0.03"), Fraction("0.06")))
    assert checkpoints(steps) == tuple(sorted({math.ceil(share * steps) for share in p if share <= 1}))


def test_checkpoints_of_a_hundred_steps_are_the_papers():
    assert checkpoints(100) == (0, 22, 41, 57, 70, 80, 87, 93, 99)


def test_large_balls_come_first_and_count_for_nothing():
    table = timetable(100, sparse=True, large_epsilons=True)
    assert np.flatnonzero(table.begins).tolist() == [0, 30, 60]
    assert table.scale[[0, 29, 30, 59, 60, 100, 101]].tolist() == [3, 3, 2, 2, 1, 1, 1]
    np.testing.assert_array_equal(table.counts, table.scale == 1)
    for steps in range(1, 9):
        short = timetable(steps, sparse=False, large_epsilons=True)
        assert short.begins[0]
        assert short.scale[steps] == 1


def test_the_step_is_halved_by_either_condition_of_the_paper():
    interval, rises = 8, jnp.array([4, 5, 7, 7, 7])  # of 8 steps at least 6 must rise; the last one rises
    old = Halving(jnp.ones(5), rises, jnp.array([0.0, 0, 0, 1, 1]), jnp.array([False, False, False, False, True]))
    now = Now(jnp.array(False), jnp.array(False), jnp.int32(interval), jnp.float32(0.1), 0.75)
    new, back = halve(old, now, jnp.ones(5, bool), jnp.ones(5))
    np.testing.assert_array_equal(back, [True, False, False, True, False])
    np.testing.assert_array_equal(new.length, [0.5, 1, 1, 0.5, 1])
    np.testing.assert_array_equal(new.rises, 0)
    np.testing.assert_array_equal(new.halved, back)
    between, back = halve(old, now._replace(interval=jnp.int32(0)), jnp.ones(5, bool), jnp.ones(5))
    assert not back.any()
    np.testing.assert_array_equal(between.rises, rises + 1)


def narrow(images):
    """Peak where every value is 0.5 + 0.0123: a step of any length but a short one jumps over it."""
    return -jnp.abs(images - 0.5123).mean(axis=(1, 2, 3))


def upwards(outputs, reference):
    return outputs - reference


def never(outputs, reference):
    return outputs > reference + 1


def test_steps_shrink_until_a_narrow_peak_is_found():
    images, labels = np.full((4, 2, 2, 3), 0.5, np.float32), np.zeros(4, np.float32)
    attack = APGD(epsilon=0.1, loss=upwards, success=never, trace=True)
    result = attack(as_target(narrow), images, labels, KEY)
    np.testing.assert_allclose(result.loss, 0, atol=0.002)
    fixed = attacks.PGD(epsilon=0.1, step_size=0.2, steps=100, loss=upwards, success=never)
    assert (fixed(as_target(narrow), images, labels, KEY).loss < -0.01).all()
    trace = np.asarray(result.trace)
    changes = np.abs(np.diff(trace, axis=1))
    assert (changes[:, :20].mean(axis=1) > 10 * changes[:, -5:].mean(axis=1)).all()
    np.testing.assert_array_equal(result.loss, trace.max(axis=1))


@pytest.fixture(scope="module", params=["linf", "l2", "l1", "l1-large"])
def searched(request, toy):
    """Full-budget searches in each norm, and plain PGD's of the same budget."""
    norm = request.param.split("-")[0]
    about = {"epsilon": SIZES[norm], "norm": norm}
    ours = APGD(**about, large_epsilons=request.param.endswith("large"), trace=True)
    plain = attacks.PGD(**about, steps=100)
    found, other = (attacks.run(a, toy.target, toy.images, toy.labels, KEY, batch_size=16) for a in (ours, plain))
    return ours, found, other


def test_images_are_in_ball_and_range_and_the_budget_is_kept(toy, searched):
    attack, found, _ = searched
    norms = perturbation_norms(toy.images, found.images, norm=attack.norm)
    assert norms.max() <= attack.epsilon + 1e-6
    assert norms.max() >= attack.epsilon * 0.99
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert attack.evaluations == 101
    np.testing.assert_array_equal(found.forwards, 101)
    np.testing.assert_array_equal(found.backwards, 101)
    outputs = np.asarray(toy.target(jnp.asarray(found.images)))
    np.testing.assert_array_equal(outputs.argmax(axis=1) != toy.labels, found.success)


def test_search_is_no_weaker_than_plain_pgd(toy, searched):
    attack, found, other = searched
    if attack.large_epsilons:  # leads some images to a lesser maximum: AutoAttack runs it five times
        attack = dataclasses.replace(attack, restarts=5, trace=False)
        found = attacks.run(attack, toy.target, toy.images, toy.labels, KEY, batch_size=16)
    assert (found.success >= other.success).all()
    assert found.loss.mean() >= other.loss.mean() - 0.01


def test_verdict_agrees_with_the_full_budget(toy, searched):
    attack, found, _ = searched
    clean = np.asarray(toy.target(jnp.asarray(toy.images))).argmax(axis=1) != toy.labels
    early = attacks.verdict(attack, toy.target, toy.images, toy.labels, KEY)
    np.testing.assert_array_equal(early.fooled, found.success | clean)


def test_a_larger_ball_is_never_better_for_the_defender(toy):
    fooled = [
        attacks.run(APGD(epsilon=e, steps=40), toy.target, toy.images, toy.labels, KEY, batch_size=16).success.sum()
        for e in (0.0, 0.01, 0.03, 0.06, 0.12, 0.3)
    ]
    assert fooled == sorted(fooled)
    assert fooled[0] == 1
    assert fooled[-1] == 16


def greedy(weights, image, epsilon):
    """Return the largest gain of a linear function in the l1 ball and the box: steepest entries first."""
    room, left, gain = np.where(weights > 0, 1 - image, image), epsilon, 0.0
    for entry in np.argsort(-np.abs(weights)):
        step = min(room[entry], left)
        gain, left = gain + step * abs(weights[entry]), left - step
    return gain


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_l1_search_reaches_the_optimum_of_a_linear_model_in_the_box(linear, epsilon):
    weights = linear.weights[0][:, 1].astype(np.float64)
    towards = np.where(linear.labels == 0, 1, -1)
    pixels = linear.images.reshape(len(linear.images), -1).astype(np.float64)
    gain = np.array([greedy(side * weights, image, epsilon) for side, image in zip(towards, pixels, strict=True)])
    attack = APGD(epsilon=epsilon, norm="l1", loss="margin")
    result = attack(linear.target, linear.images, linear.labels, KEY)
    reached = np.asarray(result.loss, np.float64) - towards * (pixels @ weights + 0.3)
    assert (reached / gain > 0.98).all()
    assert (reached / gain < 1 + 1e-4).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_search_reaches_the_optimum_of_a_linear_model(linear, norm):
    weights, images = linear.weights[0][:, 1].astype(np.float64), linear.images * 0.2 + np.float32(0.4)
    labels = np.arange(len(images), dtype=np.int32) % 2
    dual = np.abs(weights).sum() if norm == "linf" else np.linalg.norm(weights)
    score = images.reshape(len(images), -1) @ weights + 0.3
    result = APGD(epsilon=0.05, norm=norm, loss="margin", steps=20)(linear.target, images, labels, KEY)
    np.testing.assert_allclose(result.loss, np.where(labels == 0, 1, -1) * score + 0.05 * dual, rtol=1e-4, atol=1e-4)


AIMED = APGD(epsilon=16 / 255, loss="dlr", target_classes=4, steps=30)


@pytest.fixture(scope="module")
def aimed(toy):
    return attacks.run(AIMED, toy.target, toy.images, toy.labels, KEY, batch_size=16)


def test_each_of_the_likeliest_classes_is_aimed_at_in_turn(toy, aimed):
    """Against one targeted run a class, by the rank that the clean image's logits give it."""
    logits = np.array(toy.target(jnp.asarray(toy.images)))
    logits[np.arange(16), toy.labels] = -np.inf
    order = np.argsort(-logits, axis=1)
    single = APGD(epsilon=16 / 255, loss="dlr", steps=30)
    any_class = np.zeros(16, bool)
    for rank in range(4):
        explicit = attacks.run(
            single, toy.target, toy.images, toy.labels, KEY, order[:, rank].astype(np.int32), batch_size=16
        )
        any_class |= explicit.margin < 0
    assert (aimed.success >= any_class).all()
    assert 1 < any_class.sum() < 16
    np.testing.assert_array_equal(aimed.forwards, 4 * 31 + 1)
    np.testing.assert_array_equal(aimed.backwards, 4 * 31)


def test_ranks_are_those_of_the_clean_image_in_every_search(toy):
    target, problem = toy.target, AIMED.prepare(toy.target, toy.images, toy.labels, KEY, None)
    problem = jax.tree.map(jnp.asarray, problem)
    step = jax.jit(lambda state, restart, step: AIMED.advance(target, problem, state, restart, step))
    state = step(AIMED.blank(problem), jnp.uint32(0), jnp.uint32(0))
    logits = np.array(target(problem.images))
    logits[np.arange(16), toy.labels] = -np.inf
    np.testing.assert_array_equal(state.ranking, np.argsort(-logits, axis=1)[:, :4])
    np.testing.assert_array_equal(step(state, jnp.uint32(2), jnp.uint32(0)).ranking, state.ranking)


def test_verdict_of_the_aimed_search_is_the_full_budgets(toy, aimed):
    found = attacks.verdict(AIMED, toy.target, toy.images, toy.labels, KEY)
    np.testing.assert_array_equal(found.fooled, aimed.success)


def test_one_program_serves_any_size_image_restart_and_class(toy):
    attacks.run(APGD(epsilon=0.1, steps=6, target_classes=2), toy.target, toy.images, toy.labels, KEY, batch_size=8)
    with count_compilations() as compilations:
        for epsilon in (0.0, 1 / 255, 0.3):
            other = APGD(epsilon=epsilon, steps=6, target_classes=2, restarts=1)
            attacks.run(other, toy.target, 1 - toy.images, toy.labels, jax.random.key(1), batch_size=8)
    assert compilations.count("advance") == 0


def test_bits_do_not_depend_on_devices_or_rows(toy):
    own = keys.per_image(KEY, 16)
    for attack in (
        APGD(epsilon=2.0, norm="l1", steps=10, large_epsilons=True),
        APGD(epsilon=0.1, loss="dlr", steps=8, target_classes=2),
    ):
        one = attacks.run(attack, toy.target, toy.images, toy.labels, own, batch_size=8)
        rows = np.random.default_rng(0).permutation(16)
        two = attacks.run(attack, toy.target, toy.images[rows], toy.labels[rows], own[rows], batch_size=8, devices=2)
        for name in ("images", "loss", "success"):
            np.testing.assert_array_equal(getattr(two, name), getattr(one, name)[rows], err_msg=name)


@pytest.mark.usefixtures("x64", "lenient")
@pytest.mark.parametrize("norm", SIZES)
def test_float64_images_stay_float64(toy, norm):
    target = classifier(toy.apply, tuple(np.float64(weight) for weight in toy.weights))
    attack = APGD(epsilon=SIZES[norm], norm=norm, steps=8)
    result = attack(target, toy.images.astype(np.float64), toy.labels, KEY)
    assert result.images.dtype == np.float64
    assert perturbation_norms(toy.images, result.images, norm=norm).max() <= SIZES[norm] * (1 + 1e-9)


def test_it_nests_in_a_jitted_function(toy):
    attack = APGD(epsilon=SIZES["linf"], steps=6, loss="dlr", target_classes=2)
    inside = jax.jit(lambda images: attack(toy.target, images, jnp.asarray(toy.labels), KEY).loss)(toy.images)
    np.testing.assert_allclose(inside, attack(toy.target, toy.images, toy.labels, KEY).loss, atol=1e-4)


def test_an_image_without_finite_loss_spoils_no_other(toy):
    def broken(weights, images):
        dark = (images.mean(axis=(1, 2, 3)) < 0.05)[:, None]
        return jnp.where(dark, jnp.asarray(jnp.nan, images.dtype), toy.apply(weights, images))

    images = toy.images.copy()
    images[3] = 0
    attack = APGD(epsilon=0.01, steps=8)
    result = attack(classifier(broken, toy.weights), images, toy.labels, KEY)
    expected = attack(toy.target, images, toy.labels, KEY)
    others = np.arange(16) != 3
    np.testing.assert_array_equal(result.status[3], 2)
    assert not result.success[3]
    assert np.isfinite(result.images).all()
    np.testing.assert_allclose(np.asarray(result.images)[others], np.asarray(expected.images)[others], atol=1e-6)


def test_a_random_target_keeps_the_last_iterate_of_averaged_gradients(noisy):
    attack = APGD(epsilon=0.05, steps=12, eot=attacks.Expectation(samples=4), trace=True)
    result = attack(noisy.target, noisy.images, noisy.labels, KEY)
    np.testing.assert_array_equal(result.loss, result.trace[:, -1])
    np.testing.assert_array_equal(result.forwards, 13 * 4)
    many = keys.per_image(jax.random.key(7), 8)

    @jax.jit
    def true_loss(images):
        outputs = jax.vmap(lambda draw: noisy.target(images, keys.fold(many, draw)))(jnp.arange(200))
        return -jax.nn.log_softmax(outputs)[:, jnp.arange(8), noisy.labels].mean()

    assert true_loss(result.images) > 1.3 * true_loss(noisy.images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"target_classes": -1}, "target_classes must be an integer of at least 0, got -1"),
        ({"rho": 1.5}, "rho must be a share"),
        ({"momentum": -0.1}, "momentum must be a share"),
        ({"norm": "l0"}, "norm must be one of"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"loss": upwards, "success": never, "target_classes": 2}, "target_classes aims at classes"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        APGD(**arguments)
    assert "\n" not in str(caught.value)


def test_losses_and_classes_that_do_not_fit_the_target_are_refused(linear, toy):
    with pytest.raises(ValueError, match="dlr loss needs more classes than 2"):
        APGD(loss="dlr")(linear.target, linear.images, linear.labels, KEY)
    with pytest.raises(ValueError, match="target_classes must be at most 4 for 5 classes, got 5"):
        APGD(target_classes=5)(toy.target, toy.images, toy.labels, KEY)
    with pytest.raises(ValueError, match="chooses 2 target classes itself, got targets"):
        APGD(target_classes=2)(toy.target, toy.images, toy.labels, KEY, targets=(toy.labels + 1) % 5)
    with pytest.raises(ValueError, match="expected a key"):
        APGD()(toy.target, toy.images, toy.labels)
