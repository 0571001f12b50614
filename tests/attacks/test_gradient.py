import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpurify import attacks, keys
from jaxpurify.attacks.gradient import GradientAttack
from jaxpurify.attacks.losses import margin
from jaxpurify.models import as_target, classifier
from jaxpurify.testing import count_compilations

EPSILON = 16 / 255
KEY = jax.random.key(0)


def flat(images):
    return np.asarray(images, np.float64).reshape(len(images), -1)


def log_softmax(logits):
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def evaluate(toy, images):
    """Return loss, wrongness and gradient of the perceptron in float64, differentiated by hand."""
    first, second = (np.asarray(weight, np.float64) for weight in toy.weights)
    hidden = np.tanh(flat(images) @ first)
    logits, rows = hidden @ second, np.arange(len(images))
    errors = np.exp(log_softmax(logits))
    errors[rows, toy.labels] -= 1
    gradient = ((errors @ second.T) * (1 - hidden**2)) @ first.T
    return -log_softmax(logits)[rows, toy.labels], logits.argmax(axis=1) != toy.labels, gradient.reshape(images.shape)


def iterate(toy, steps, decay=None):
    """I-FGSM of Kurakin et al. 2017 and, with a decay, MI-FGSM of Dong et al. 2018, keeping the best iterate."""
    clean = toy.images.astype(np.float64)
    images, momentum, trace = clean.copy(), 0.0, []
    best = [clean, np.full(len(clean), -np.inf), np.zeros(len(clean), bool)]
    for _ in range(steps + 1):
        loss, wrong, gradient = evaluate(toy, images)
        trace.append(loss)
        better = (wrong & ~best[2]) | ((wrong == best[2]) & (loss > best[1]))
        best[0] = np.where(better[:, None, None, None], images, best[0])
        best[1:] = np.where(better, loss, best[1]), np.where(better, wrong, best[2])
        if decay is not None:
            momentum = decay * momentum + gradient / np.abs(gradient).sum(axis=(1, 2, 3), keepdims=True)
            gradient = momentum
        images = np.clip(images + EPSILON / steps * np.sign(gradient), clean - EPSILON, clean + EPSILON).clip(0, 1)
    return best[0], np.stack(trace, axis=1)


def test_fgsm_is_its_closed_form(linear):
    weights = linear.weights[0][:, 1].reshape(linear.images.shape[1:])
    away = np.where(linear.labels == 0, 1, -1).reshape(-1, 1, 1, 1)
    result = attacks.FGSM(epsilon=EPSILON)(linear.target, linear.images, linear.labels)
    expected = np.clip(linear.images + np.float32(EPSILON) * away * np.sign(weights), 0, 1)
    np.testing.assert_allclose(result.images, expected, atol=1e-7)


def test_fgsm_steps_by_the_whole_of_epsilon_along_the_sign_of_the_gradient(toy):
    result = attacks.FGSM(epsilon=EPSILON, trace=True)(toy.target, toy.images, toy.labels)
    loss, wrong, gradient = evaluate(toy, toy.images)
    stepped = np.clip(toy.images + np.float32(EPSILON) * np.sign(gradient), 0, 1)
    after, wrong_after, _ = evaluate(toy, stepped)
    np.testing.assert_allclose(result.trace, np.stack([loss, after], axis=1), rtol=1e-4, atol=1e-5)
    kept = (wrong_after & ~wrong) | ((wrong_after == wrong) & (after > loss))
    assert kept.sum() > 12
    np.testing.assert_allclose(result.images[kept], stepped[kept], atol=1e-6)


@pytest.mark.parametrize(
    ("attack", "decay"),
    [(attacks.IFGSM, None), (attacks.MIFGSM, 1.0), (functools.partial(attacks.MIFGSM, decay=0.5), 0.5)],
)
def test_iterated_attacks_are_those_of_their_papers(toy, attack, decay):
    result = attack(epsilon=EPSILON, steps=8, trace=True)(toy.target, toy.images, toy.labels)
    images, trace = iterate(toy, steps=8, decay=decay)
    np.testing.assert_allclose(result.trace, trace, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(result.images, images, atol=1e-6)


def test_momentum_changes_the_path(toy):
    plain, momentum = iterate(toy, steps=8)[1], iterate(toy, steps=8, decay=1.0)[1]
    assert np.abs(plain - momentum).max() > 2.5e-3


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_reaches_the_optimum_of_a_linear_model(linear, norm, targeted):
    weights, bias = linear.weights[0][:, 1].astype(np.float64), float(linear.weights[1][1])
    if norm == "linf":  # the box may bind: each pixel goes as far towards its better side as it can
        images, epsilon = linear.images, EPSILON
    else:  # the dual norm, away from the box
        images, epsilon = linear.images * 0.2 + np.float32(0.4), 0.05
    labels = np.arange(len(images), dtype=np.int32) % 2
    towards = np.where(labels == 0, 1, -1)[:, None] * weights
    pixels = flat(images)
    if norm == "linf":
        gain = (towards * (np.clip(pixels + epsilon * np.sign(towards), 0, 1) - pixels)).sum(axis=1)
    else:
        gain = epsilon * np.linalg.norm(weights) * np.ones(len(images))
    optimum = np.where(labels == 0, 1, -1) * (pixels @ weights + bias) + gain
    attack = attacks.PGD(norm=norm, epsilon=epsilon, loss="margin")
    result = attack(linear.target, images, labels, KEY, **({"targets": 1 - labels} if targeted else {}))
    np.testing.assert_allclose(result.loss, optimum, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(result.success, optimum > 0)
    assert 0 < np.mean(optimum > 0) < 1


def still(outputs, reference):
    return jnp.zeros(outputs.shape[0])


@pytest.mark.parametrize(("norm", "order"), [("linf", np.inf), ("l2", 2)])
def test_random_starts_are_in_the_ball_and_differ(linear, norm, order):
    attack = attacks.PGD(norm=norm, epsilon=0.1, steps=1, loss=still)
    images = np.full((12, 4, 5, 3), 0.5, np.float32)
    moved = flat(attack(linear.target, images, linear.labels, KEY).images) - 0.5
    sizes = np.linalg.norm(moved, ord=order, axis=1)
    assert (sizes > 0.05).all()
    assert (sizes <= 0.1 + 1e-6).all()
    assert len(np.unique(moved[:, 0])) == 12
    again = flat(attack(linear.target, images, linear.labels, jax.random.key(1)).images) - 0.5
    assert np.abs(moved - again).max() > 0.01


def test_tiny_gradients_still_move_an_l2_attack(linear):
    def tiny(outputs, reference):
        return 1e-30 * margin(outputs, reference)

    images = linear.images * 0.2 + np.float32(0.4)
    attack = attacks.PGD(norm="l2", epsilon=0.05, steps=6, random_start=False, loss=tiny)
    result = attack(linear.target, images, linear.labels)
    np.testing.assert_allclose(result.norm, 0.05, rtol=1e-4)


def by_hand(toy, factory, *, steps, step_size):
    """Follow an Optax rule image by image with the derivative by hand, projecting in the linf norm."""
    rule, clean = factory(1.0), toy.images.astype(np.float64)
    images, states, trace = clean.copy(), [rule.init(jnp.asarray(image, jnp.float32)) for image in clean], []
    update = jax.jit(rule.update)
    for _ in range(steps + 1):
        loss, _, gradient = evaluate(toy, images)
        trace.append(loss)
        for number in range(len(images)):
            image, rate = jnp.asarray(images[number], jnp.float32), jnp.asarray(-gradient[number], jnp.float32)
            direction, states[number] = update(rate, states[number], image)
            moved = images[number] + step_size * np.asarray(direction, np.float64)
            images[number] = np.clip(moved, clean[number] - EPSILON, clean[number] + EPSILON).clip(0, 1)
    return np.stack(trace, axis=1)


def clipped_descent(learning_rate):
    return optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(learning_rate, momentum=0.5))


@pytest.mark.parametrize(
    "factory",
    [optax.adam, functools.partial(optax.sgd, momentum=0.9), clipped_descent],
    ids=["adam", "partial", "global-norm"],
)
@pytest.mark.usefixtures("lenient")  # Adam mixes dtypes
def test_update_may_be_any_optax_factory_and_runs_image_by_image(toy, factory):
    attack = attacks.PGD(epsilon=EPSILON, update=factory, step_size=2 / 255, steps=4, random_start=False, trace=True)
    result = attack(toy.target, toy.images, toy.labels)
    expected = by_hand(toy, factory, steps=4, step_size=2 / 255)
    np.testing.assert_allclose(result.trace, expected, rtol=1e-3, atol=1e-4)
    assert (expected[:, -1] > expected[:, 0]).mean() > 0.8


def test_equal_partials_compile_once(toy):
    def run(momentum):
        rule = functools.partial(optax.sgd, momentum=momentum)
        return attacks.PGD(update=rule, step_size=0.01, steps=1)(toy.target, toy.images, toy.labels, KEY)

    run(0.8)
    with count_compilations() as compilations:
        run(0.8)
    assert compilations.count("advance") == 0
    with count_compilations() as compilations:
        run(0.7)
    assert compilations.count("advance") == 1


def test_the_default_step_is_a_share_of_epsilon(ramp):
    for attack, share in [
        (attacks.FGSM(epsilon=0.1), 1.0),
        (attacks.IFGSM(epsilon=0.1, steps=5), 0.2),
        (attacks.PGD(epsilon=0.1, random_start=False), 0.25),
        (GradientAttack(epsilon=0.1, step_size=0.03, random_start=False), 0.3),
    ]:
        trace = by_ramp(attack, ramp).trace
        np.testing.assert_allclose(trace[:, 1] - trace[:, 0], share * 0.1, atol=1e-6)


def by_ramp(attack, ramp, success=None, **changes):
    changed = type(attack)(**{**vars(attack), "loss": upwards, "success": success or never, "trace": True, **changes})
    return changed(ramp.target, ramp.images, ramp.labels)


def upwards(outputs, reference):
    return outputs - reference


def never(outputs, reference):
    return outputs > 2


def in_window(outputs, reference):
    return (outputs - reference > 0.015) & (outputs - reference < 0.045)


def test_an_iterate_that_succeeds_is_kept_before_one_of_higher_loss(ramp):
    result = by_ramp(attacks.IFGSM(epsilon=0.1, steps=10), ramp, in_window)
    assert result.success.all()
    # The steps are 0.01 long: 0.02, 0.03 and 0.04 succeed, and 0.1 has the highest loss.
    np.testing.assert_allclose(result.loss, 0.04, atol=1e-6)
    np.testing.assert_allclose(result.images - ramp.images, 0.04, atol=1e-6)
    np.testing.assert_allclose(result.trace[:, -1], 0.1, atol=1e-6)


def test_the_iterate_of_highest_loss_is_kept(toy):
    attack = attacks.PGD(epsilon=EPSILON, step_size=2 * EPSILON, steps=6, loss="margin", trace=True)
    result = attack(toy.target, toy.images, toy.labels, KEY)
    assert result.trace.shape == (16, 7)
    np.testing.assert_array_equal(result.loss, result.trace.max(axis=1))
    assert (result.trace.argmax(axis=1) < 6).any()
    outputs = toy.target(jnp.asarray(result.images))
    np.testing.assert_allclose(margin(outputs, jnp.asarray(toy.labels)), result.loss, atol=1e-5)


def test_restarts_are_never_weaker_and_spend_as_they_say(toy):
    once = attacks.PGD(epsilon=EPSILON, steps=3, trace=True)(toy.target, toy.images, toy.labels, KEY)
    thrice = attacks.PGD(epsilon=EPSILON, steps=3, trace=True, restarts=3)(toy.target, toy.images, toy.labels, KEY)
    np.testing.assert_array_equal(thrice.trace[:, :4], once.trace)
    assert (thrice.success >= once.success).all()
    alike = np.asarray(thrice.success == once.success)
    assert (thrice.loss >= once.loss)[alike].all()
    assert (thrice.loss > once.loss).any()
    np.testing.assert_array_equal(thrice.forwards, 12)
    np.testing.assert_array_equal(thrice.backwards, 12)
    starts = np.asarray(thrice.trace[:, ::4])
    assert (np.ptp(starts, axis=1) > 0).all()


def doubled(images):
    """Repeat each pixel twice and blur a little."""
    large = jnp.repeat(jnp.repeat(images, 2, axis=1), 2, axis=2)
    return (large + jnp.roll(large, 1, axis=1) + jnp.roll(large, 1, axis=2)) / 3


def error(outputs, reference):
    return ((outputs - reference) ** 2).mean(axis=(1, 2, 3))


def poor(outputs, reference):
    return error(outputs, reference) > 2.5e-3


def test_targets_may_return_images(toy):
    """A super-resolution network is attacked through the error of its output, without a change of the loop."""
    target, reference = as_target(doubled), np.asarray(doubled(jnp.asarray(toy.images)))
    attack = attacks.PGD(epsilon=EPSILON, steps=10, loss=error, success=poor)
    result = attacks.run(attack, target, toy.images, reference, KEY, batch_size=16)
    noise = attacks.RandomNoise(epsilon=EPSILON, draws=4, loss=error, success=poor)
    floor = attacks.run(noise, target, toy.images, reference, KEY, batch_size=16)
    assert result.loss.mean() > 1.05 * floor.loss.mean()
    np.testing.assert_array_equal(result.success, result.loss > 2.5e-3)
    assert np.isnan(result.margin).all()
    found = attacks.verdict(attack, target, toy.images, reference, KEY)
    np.testing.assert_array_equal(found.fooled, result.success)
    assert 0 < found.fooled.sum() < 16


def distance(outputs, reference):
    return jnp.abs(outputs - reference).sum(axis=1)


def close(outputs, reference):
    return distance(outputs, reference) < 0.1


def test_features_may_be_attacked_towards_those_of_another_image(toy):
    def features(weights, images):
        return jnp.tanh(images.reshape(images.shape[0], -1) @ weights)

    target = classifier(features, toy.weights[0])
    reference = np.asarray(target(jnp.asarray(toy.images)))
    attack = attacks.PGD(epsilon=0.5, steps=100, step_size=0.02, loss=distance, success=close)
    result = attack(target, toy.images, reference, KEY, targets=reference[::-1])
    # The loss to raise is minus the distance to the target.
    before = np.abs(reference - reference[::-1]).sum(axis=1)
    assert (-result.loss < before / 2).all()
    reached = target(jnp.asarray(result.images))
    np.testing.assert_allclose(np.abs(reached - reference[::-1]).sum(axis=1), -result.loss, atol=1e-4)
    np.testing.assert_array_equal(result.success, -result.loss < 0.1)


def test_targeted_attacks_aim_at_the_target_with_every_loss(toy):
    targets = (toy.labels + 2) % 5
    for loss in attacks.LOSSES:
        attack = attacks.PGD(epsilon=0.1, steps=10, loss=loss)
        result = attack(toy.target, toy.images, toy.labels, KEY, targets=targets)
        found = np.asarray(toy.target(jnp.asarray(result.images))).argmax(axis=1)
        np.testing.assert_array_equal(result.success, found == targets)
        assert result.success.mean() >= 0.4


def test_expectation_follows_the_mean_gradient(noisy):
    draws = 6
    attack = attacks.FGSM(epsilon=EPSILON, eot=attacks.Expectation(samples=draws), trace=True)
    result = attack(noisy.target, noisy.images, noisy.labels, KEY)
    search = keys.stream(keys.per_image(KEY, 8), "search")

    @jax.jit
    def mean_loss(images):
        def one(draw):
            outputs = noisy.target(images, keys.fold(search, draw))
            return -jax.nn.log_softmax(outputs)[jnp.arange(8), noisy.labels]

        return jax.vmap(one)(jnp.arange(draws)).mean(axis=0)

    gradient = jax.grad(lambda images: mean_loss(images).sum())(jnp.asarray(noisy.images))
    stepped = np.asarray(jnp.clip(noisy.images + EPSILON * jnp.sign(gradient), 0, 1))
    np.testing.assert_allclose(result.trace[:, 0], mean_loss(noisy.images), atol=1e-5)
    kept = np.asarray(result.trace[:, 1] > result.trace[:, 0])
    assert kept.all()
    np.testing.assert_allclose(result.images, stepped, atol=1e-6)
    np.testing.assert_array_equal(result.forwards, 2 * draws)


def test_a_target_without_randomness_is_evaluated_once_a_step(linear):
    averaged = attacks.PGD(epsilon=EPSILON, steps=3, eot=attacks.Expectation(samples=20))
    plain = attacks.PGD(epsilon=EPSILON, steps=3)
    result, expected = (attack(linear.target, linear.images, linear.labels, KEY) for attack in (averaged, plain))
    np.testing.assert_array_equal(result.images, expected.images)
    np.testing.assert_array_equal(result.forwards, 4)


def test_expectation_beats_a_single_draw(noisy):
    judge = keys.per_image(jax.random.key(7), 8)

    @jax.jit
    def true_loss(images):
        outputs = jax.vmap(lambda draw: noisy.target(images, keys.fold(judge, draw)))(jnp.arange(200))
        return -jax.nn.log_softmax(outputs)[:, jnp.arange(8), noisy.labels].mean()

    def attacked(eot):
        return true_loss(attacks.FGSM(epsilon=EPSILON, eot=eot)(noisy.target, noisy.images, noisy.labels, KEY).images)

    assert attacked(attacks.Expectation(samples=32)) > 1.1 * attacked(None)


@pytest.mark.parametrize("randomness", ["fresh", "frozen"])
def test_frozen_randomness_is_the_same_at_every_step(noisy, randomness):
    eot = attacks.Expectation(samples=2, randomness=randomness)
    attack = attacks.PGD(epsilon=0.0, steps=3, eot=eot, trace=True)
    trace = attack(noisy.target, noisy.images, noisy.labels, KEY).trace
    assert (np.ptp(trace, axis=1) == 0).all() == (randomness == "frozen")


def inverted(images, key):
    return 1 - images


def test_a_transformation_serves_the_search_and_the_image_kept_is_judged_as_it_is(linear):
    attack = attacks.PGD(epsilon=0.0, steps=2, transformation=inverted, loss="margin", trace=True)
    found = attacks.verdict(attack, linear.target, linear.images, linear.labels, KEY)
    assert not found.fooled.any()
    result = attack(linear.target, linear.images, linear.labels, KEY)
    for images, losses in [(1 - linear.images, result.trace[:, 0]), (linear.images, -result.margin)]:
        logits = np.asarray(linear.target(jnp.asarray(images)))
        expected = (logits[:, 1] - logits[:, 0]) * np.where(linear.labels == 0, 1, -1)
        np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-4)
    assert not result.success.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"restarts": 0}, "restarts must be an integer of at least 1, got 0"),
        ({"epsilon": -0.1}, "epsilon must be a finite number of at least 0, got -0.1"),
        ({"epsilon": 8}, "got 8: in 0–255 units"),
        ({"norm": "l3"}, "norm must be one of"),
        ({"l1_share": 2.0}, "l1_share must be a share from 0 to 1, got 2.0"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"step_size": 2.0}, "step_size must be at most 1 in the linf norm, got 2.0: divide by 255"),
        ({"step_size": -0.1}, "step_size must be a finite number above 0, got -0.1"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        attacks.PGD(**arguments)
    assert "\n" not in str(caught.value)
