import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks, keys
from jaxpurify.attacks.carlini_wagner import CarliniWagner
from jaxpurify.attacks.ddn import DDN
from jaxpurify.attacks.deepfool import DeepFool
from jaxpurify.attacks.fab import FAB
from jaxpurify.metrics.norms import perturbation_norms
from jaxpurify.models import as_target, classifier
from jaxpurify.testing import count_compilations

KEY = jax.random.key(0)
NORMS = ["linf", "l2"]
# Few steps, and enough of them for small models.
QUICK = {
    "deepfool-l2": DeepFool(steps=20),
    "deepfool-linf": DeepFool(norm="linf", steps=20),
    "fab-l2": FAB(norm="l2", steps=10),
    "fab-linf": FAB(norm="linf", steps=10),
    "carlini-wagner": CarliniWagner(steps=60, searches_of_price=6),
    "ddn": DDN(steps=100),
}
EVERY = pytest.mark.parametrize("name", QUICK)
# Of the two norms of one attack, one; the other is slow.
ONE_NORM = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in ("deepfool-linf", "fab-l2") else name for name in QUICK],
)


def changed(attack, **values):
    return type(attack)(**{**vars(attack), **values})


def flat(images):
    return np.asarray(images, np.float64).reshape(len(images), -1)


@pytest.fixture(scope="module")
def optimum(linear, reference_step):
    """The distance of each image to the boundary within the box, in float64."""
    weights, bias = linear.weights[0][:, 1].astype(np.float64), float(linear.weights[1][1])
    pixels = flat(linear.images)
    return {
        norm: np.array([reference_step(x, weights, -(x @ weights + bias), norm)[1] for x in pixels]) for norm in NORMS
    }


@EVERY
def test_every_attack_reaches_the_boundary_of_an_affine_model(linear, optimum, name):
    attack = QUICK[name]
    if name == "ddn":
        attack = DDN(steps=400)
    if name == "carlini-wagner":
        attack = CarliniWagner(steps=300, searches_of_price=9, step_size=0.002, price=0.01)
    result = attack(linear.target, linear.images, linear.labels, KEY)
    norms = perturbation_norms(linear.images, result.images, norm=attack.norm)
    assert result.success.all()
    assert (norms <= optimum[attack.norm] * 1.0201 + 1e-6).all()
    # No attack can be nearer: else success or distance would be wrong.
    assert (norms >= optimum[attack.norm] * (1 - 1e-4)).all()
    np.testing.assert_allclose(-result.loss, norms, rtol=1e-5)


def test_the_optimum_without_a_binding_box_is_the_distance_to_a_plane(linear):
    images = linear.images * 0.05 + np.float32(0.5)
    weights, bias = linear.weights[0][:, 1].astype(np.float64), float(linear.weights[1][1])
    values = flat(images) @ weights + bias
    labels = (values > 0).astype(np.int32)
    for norm, dual in (("l2", np.linalg.norm(weights)), ("linf", np.abs(weights).sum())):
        result = DeepFool(norm=norm, overshoot=1e-4)(linear.target, images, labels)
        np.testing.assert_allclose(result.norm, np.abs(values) / dual, rtol=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_deepfool_needs_one_step_where_the_model_is_affine(linear, norm):
    result = DeepFool(norm=norm)(linear.target, linear.images, linear.labels)
    np.testing.assert_array_equal(result.forwards, 2)
    np.testing.assert_array_equal(result.backwards, 2)
    assert result.success.all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_final_search_of_fab_comes_closer(linear, optimum, norm):
    """One step overshoots by a twentieth, and three points on the line take that away."""
    result = FAB(norm=norm, steps=1)(linear.target, linear.images, linear.labels)
    ratio = perturbation_norms(linear.images, result.images, norm=norm) / optimum[norm]
    assert ratio.max() < 1.005
    assert ratio.min() > 1 - 1e-4


@EVERY
def test_results_are_what_the_target_says_of_them(toy, name):
    attack = QUICK[name]
    result = attacks.run(attack, toy.target, toy.images, toy.labels, KEY, batch_size=16)
    found = np.asarray(toy.target(jnp.asarray(result.images))).argmax(axis=1)
    np.testing.assert_array_equal(result.success, found != toy.labels)
    assert result.success.mean() > 0.9
    norms = perturbation_norms(toy.images, result.images, norm=attack.norm)
    np.testing.assert_allclose(result.norm, norms, rtol=1e-5, atol=1e-7)
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    # The first image is misclassified as it is.
    assert norms[0] == 0
    assert norms[1:][result.success[1:]].min() > 0
    assert (result.margin[result.success] <= 0).all()


@ONE_NORM
def test_epsilon_decides_what_succeeds(toy, name):
    attack = QUICK[name]
    free = attacks.run(attack, toy.target, toy.images, toy.labels, KEY, batch_size=16)
    epsilon = float(np.median(free.norm))
    bounded = changed(attack, epsilon=epsilon)
    result = attacks.run(bounded, toy.target, toy.images, toy.labels, KEY, batch_size=16)
    # Nothing that succeeds within epsilon is lost by asking for it.
    np.testing.assert_array_equal(result.success, free.success & (free.norm <= epsilon * (1 + 1e-6)))
    left = ~result.success
    assert 0 < left.sum() < 16
    assert (result.norm <= epsilon * (1 + 1e-6)).all()
    np.testing.assert_array_equal(result.images[left], toy.images[left])
    assert (result.loss[left] == -np.inf).all()
    clean = np.asarray(toy.target(jnp.asarray(toy.images)))[left]
    own = clean[np.arange(left.sum()), toy.labels[left]]
    np.testing.assert_allclose(result.margin[left], own - np.sort(clean, axis=1)[:, -2], rtol=1e-5)
    judged = attacks.verdict(bounded, toy.target, toy.images, toy.labels, KEY, batch_size=16)
    np.testing.assert_array_equal(judged.fooled, result.success)
    assert (judged.forwards <= result.forwards).all()


@pytest.mark.parametrize("name", ["fab-l2", "fab-linf", "carlini-wagner", "ddn"])
def test_targeted_attacks_reach_the_target(toy, name):
    targets = (toy.labels + 2) % 5
    attack = QUICK[name] if name != "carlini-wagner" else changed(QUICK[name], steps=200, price=0.1)
    result = attack(toy.target, toy.images, toy.labels, KEY, targets=targets)
    found = np.asarray(toy.target(result.images)).argmax(axis=1)
    np.testing.assert_array_equal(result.success, found == targets)
    assert result.success.all()
    anywhere = QUICK[name](toy.target, toy.images, toy.labels, KEY)
    assert np.median(result.norm) > np.median(anywhere.norm)


@pytest.mark.parametrize("norm", NORMS)
def test_fab_aimed_at_every_class_is_as_strong_and_costs_one_gradient_a_step(toy, norm):
    every = FAB(norm=norm, steps=10, target_classes=4)
    nearest = FAB(norm=norm, steps=10)
    aimed, one = (attack(toy.target, toy.images, toy.labels, KEY) for attack in (every, nearest))
    assert aimed.success.all()
    assert (np.asarray(aimed.norm) <= 1.01 * np.asarray(one.norm)).mean() >= 0.9
    np.testing.assert_array_equal(aimed.backwards, every.searches * every.evaluations)
    np.testing.assert_array_equal(one.backwards, 4 * nearest.evaluations)
    np.testing.assert_array_equal(one.forwards, nearest.evaluations)
    assert (every.searches, nearest.evaluations) == (4, 14)


def test_fab_aims_at_the_likeliest_classes_first(toy):
    """Aimed at one class only, it goes to the boundary of the second likeliest."""
    result = FAB(norm="l2", steps=3, target_classes=1)(toy.target, toy.images, toy.labels)
    clean, reached = (np.asarray(toy.target(jnp.asarray(images))) for images in (toy.images, result.images))
    likeliest = clean.argsort(axis=1)[:, -2]
    assert (reached.argmax(axis=1) == likeliest)[1:].mean() > 0.8


def test_fab_restarts_from_random_points_and_is_never_weaker(toy):
    once = FAB(steps=4)(toy.target, toy.images, toy.labels, KEY)
    thrice = FAB(steps=4, restarts=3, trace=True)(toy.target, toy.images, toy.labels, KEY)
    assert (np.asarray(thrice.norm) <= np.asarray(once.norm) * (1 + 1e-6)).all()
    assert (thrice.norm < once.norm).any()
    trace = np.asarray(thrice.trace)
    assert (trace[:, 1:] >= trace[:, :-1]).all()
    with pytest.raises(ValueError, match="expected a key"):
        FAB(steps=4, restarts=3)(toy.target, toy.images, toy.labels)


@pytest.mark.parametrize("norm", NORMS)
def test_fewer_candidates_cost_fewer_gradients(toy, norm):
    result = DeepFool(norm=norm, candidates=2)(toy.target, toy.images, toy.labels)
    full = DeepFool(norm=norm, candidates=None)(toy.target, toy.images, toy.labels)
    np.testing.assert_array_equal(result.backwards, result.forwards)
    np.testing.assert_array_equal(full.backwards, 4 * np.asarray(full.forwards))
    assert np.median(result.norm) >= np.median(full.norm) * (1 - 1e-3)


def test_deepfool_ends_when_all_images_have_arrived_and_says_what_each_cost(toy):
    calls = []
    attack = DeepFool(steps=50, trace=True)
    driven = attacks.run(attack, toy.target, toy.images, toy.labels, batch_size=16, progress=lambda: calls.append(1))
    assert len(calls) == driven.forwards.max() < 20
    assert driven.forwards.min() == 1
    np.testing.assert_array_equal(np.isfinite(driven.trace).argmax(axis=1) + 1, driven.forwards)
    traced = jax.jit(lambda attack, *about: attack(*about))(attack, toy.target, toy.images, toy.labels)
    np.testing.assert_array_equal(traced.forwards, driven.forwards)
    np.testing.assert_allclose(traced.images, driven.images, atol=1e-5)
    np.testing.assert_allclose(traced.trace, driven.trace, atol=1e-5)


def test_confidence_is_reached_and_costs_distance(toy):
    results = [changed(QUICK["carlini-wagner"], confidence=k)(toy.target, toy.images, toy.labels) for k in (0.0, 1.0)]
    assert (np.asarray(results[1].margin)[results[1].success] <= -1).all()
    both = np.array(results[0].success & results[1].success)
    both[0] = False  # wrong as it is
    assert both.mean() > 0.8
    assert (np.asarray(results[1].norm) > np.asarray(results[0].norm))[both].all()


def test_the_search_for_the_price_comes_closer(toy):
    few, many = (
        changed(QUICK["carlini-wagner"], price=10.0, searches_of_price=count)(toy.target, toy.images, toy.labels)
        for count in (1, 8)
    )
    assert (np.asarray(many.norm) <= np.asarray(few.norm)).all()
    assert np.median(many.norm) < 0.95 * np.median(few.norm)


def test_quantised_images_keep_to_their_levels(toy):
    result = DDN(steps=50, levels=256)(toy.target, np.round(toy.images * 255) / np.float32(255), toy.labels)
    values = np.asarray(result.images, np.float64) * 255
    np.testing.assert_allclose(values, np.round(values), atol=1e-4)
    assert result.success.mean() > 0.9


def partly(weights, images):
    logits = jnp.tanh(images.reshape(images.shape[0], -1) @ weights[0]) @ weights[1]
    return jnp.where(images[:, 0, 0, :1] > 2, jnp.nan, logits + 0 * jnp.log(jnp.abs(images[:, 4, 5, :1])))


@ONE_NORM
def test_what_is_not_finite_spoils_its_own_image_alone(toy, name):
    images = toy.images.copy()
    images[:, 4, 5, 0] = np.maximum(images[:, 4, 5, 0], 0.1)
    whole = QUICK[name](classifier(partly, toy.weights), images, toy.labels, KEY)
    images[3, 4, 5, 0] = 0
    result = QUICK[name](classifier(partly, toy.weights), images, toy.labels, KEY)
    others = np.arange(16) != 3
    assert (result.status[3], result.success[3]) == (2, False)
    for field in ("success", "forwards", "status"):
        np.testing.assert_array_equal(getattr(result, field)[others], getattr(whole, field)[others])
    np.testing.assert_array_equal(result.images[others], whole.images[others])
    assert np.isfinite(np.asarray(result.images)).all()


def coin(images, key):
    """A target that says one class or the other, whatever the image."""
    heads = jax.vmap(jax.random.bernoulli)(key).astype(images.dtype)
    return jnp.stack([heads, 1 - heads], axis=1) + 0 * images.mean(axis=(1, 2, 3))[:, None]


coin.random = True


@pytest.mark.parametrize("attack", [CarliniWagner, DDN])
def test_a_lucky_draw_is_no_success(noisy, attack):
    own = {"searches_of_price": 2} if attack is CarliniWagner else {}
    averaged = attack(steps=20, eot=attacks.Expectation(samples=30), **own)
    result = averaged(as_target(coin), noisy.images, noisy.labels, KEY)
    assert not result.success.any()
    np.testing.assert_array_equal(result.images, noisy.images)
    np.testing.assert_array_equal(result.forwards, 60 * averaged.evaluations * averaged.searches)
    np.testing.assert_array_equal(result.backwards, 30 * averaged.evaluations * averaged.searches)


@pytest.mark.parametrize("attack", [CarliniWagner(steps=30, searches_of_price=4, price=0.1), DDN(steps=40)])
def test_what_succeeds_against_a_random_target_mostly_does_so_on_fresh_draws(noisy, attack):
    attack = changed(attack, eot=attacks.Expectation(samples=20))
    result = attack(noisy.target, noisy.images, noisy.labels, KEY)
    assert result.success.mean() > 0.6

    def wrong(draw):
        outputs = noisy.target(result.images, keys.fold(keys.per_image(jax.random.key(9), 8), draw))
        return outputs.argmax(axis=1) != noisy.labels

    share = np.asarray(jax.vmap(wrong)(jnp.arange(200))).mean(axis=0)
    assert (share[np.asarray(result.success)] > 0.5).all()


@pytest.mark.parametrize("attack", [DeepFool(), FAB()])
def test_attacks_on_one_fixed_function_refuse_random_targets(noisy, attack):
    with pytest.raises(ValueError, match="one fixed function, got a random target: use PGD, CarliniWagner or DDN"):
        attack(noisy.target, noisy.images, noisy.labels, KEY)


@ONE_NORM
def test_one_device_or_two_give_the_same_bits(toy, name):
    attack = QUICK[name]

    def run(size, devices):
        return attacks.run(attack, toy.target, toy.images, toy.labels, KEY, batch_size=size, devices=devices)

    one, two = run(8, None), run(8, 2)
    for field in one._fields:
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field), err_msg=field)


@EVERY
def test_numbers_images_and_labels_compile_nothing_new(toy, name):
    attack = changed(QUICK[name], epsilon=0.5)
    leaves, structure = jax.tree.flatten(attack)
    attacks.run(attack, toy.target, toy.images, toy.labels, KEY, batch_size=16)
    other = jax.tree.unflatten(structure, [leaf * 0.95 for leaf in leaves])
    with count_compilations() as compilations:
        attacks.run(other, toy.target, toy.images[::-1].copy(), toy.labels[::-1].copy(), KEY, batch_size=16)
        attacks.run(other, toy.target, toy.images[:7], toy.labels[:7], KEY, batch_size=16)
    # DeepFool has a program a bucket, and other images may need another of them.
    assert compilations.count("advance") <= (3 if name.startswith("deepfool") else 0)


@ONE_NORM
@pytest.mark.usefixtures("x64")
def test_float64_images_give_float64_results(linear, optimum, name):
    attack = changed(QUICK[name], steps=5)
    model = classifier(linear.apply, tuple(np.float64(weight) for weight in linear.weights))
    result = attack(model, linear.images.astype(np.float64), linear.labels, KEY)
    assert result.images.dtype == np.float64
    found = np.asarray(result.success)
    assert (np.asarray(result.norm)[found] >= optimum[attack.norm][found] * (1 - 1e-9)).all()


@pytest.mark.parametrize(
    ("attack", "arguments", "message"),
    [
        (DeepFool, {"steps": 0}, "steps must be an integer of at least 1, got 0"),
        (DeepFool, {"candidates": 1}, "candidates must be an integer of at least 2, or None for all, got 1"),
        (DeepFool, {"overshoot": -1.0}, "overshoot must be a finite number of at least 0, got -1.0"),
        (DeepFool, {"norm": "l1"}, "norm of DeepFool must be 'linf' or 'l2', got 'l1'"),
        (FAB, {"steps": 0}, "steps must be an integer of at least 1, got 0"),
        (FAB, {"restarts": 0}, "restarts must be an integer of at least 1, got 0"),
        (FAB, {"beta": 2.0}, "beta must be from 0 to 1, got 2.0"),
        (FAB, {"eta": 0.5}, "eta must be from 1 to 2, got 0.5"),
        (FAB, {"epsilon": 8}, "in 0–255 units"),
        (FAB, {"target_classes": -1}, "target_classes must be an integer of at least 0, got -1"),
        (CarliniWagner, {"confidence": -1.0}, "confidence must be a finite number of at least 0, got -1.0"),
        (CarliniWagner, {"searches_of_price": 0}, "searches_of_price must be an integer of at least 1, got 0"),
        (CarliniWagner, {"norm": "linf"}, "norm of CarliniWagner must be 'l2', got 'linf'"),
        (DDN, {"gamma": 1.0}, "gamma must be above 0 and below 1, got 1.0"),
        (DDN, {"levels": 1}, "levels must be an integer of at least 2, such as 256, or None, got 1"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(attack, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        attack(**arguments)
    assert "\n" not in str(caught.value)


def test_targets_that_cannot_be_meant_are_refused(toy):
    with pytest.raises(ValueError, match="DeepFool goes to the nearest class, got targets: leave them out, or use FAB"):
        DeepFool()(toy.target, toy.images, toy.labels, targets=toy.labels)
    with pytest.raises(ValueError, match="target_classes must be at most 4 for 5 classes, got 5"):
        FAB(target_classes=5)(toy.target, toy.images, toy.labels)
    with pytest.raises(ValueError, match="FAB chooses 2 target classes itself, got targets"):
        FAB(target_classes=2)(toy.target, toy.images, toy.labels, targets=toy.labels)
