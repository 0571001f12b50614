import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jaxpurify.attacks import drivers
from jaxpurify.attacks.gradient import FGSM, IFGSM, MIFGSM
from jaxpurify.attacks.result import Problem
from jaxpurify.attacks.transferable import (
    DIFGSM,
    MDIFGSM,
    NIFGSM,
    TIFGSM,
    VMIFGSM,
    TransferableAttack,
    placing,
    resized_and_padded,
    smoothed,
    tuned_variance,
)
from jaxpurify.gradients import Expectation
from jaxpurify.models import classifier
from jaxpurify.testing import count_compilations

EPSILON = 16 / 255
KEY = jax.random.key(0)
EVERYTHING = functools.partial(
    TransferableAttack, lookahead=True, resize_share=0.6, kernel=3, neighbours=3, steps=4, trace=True
)


@pytest.fixture(scope="module")
def last_kept(toy):
    """The perceptron, said to be random: of a random target the last iterate is kept, and not the best."""

    def apply(weights, images, key):
        return toy.apply(weights, images)

    return classifier(apply, toy.weights, random=True)


@pytest.fixture(scope="module")
def last_iterate(last_kept, toy):
    @functools.cache
    def images(attack):
        return np.asarray(attack(epsilon=EPSILON, steps=4)(last_kept, toy.images, toy.labels, KEY).images)

    return images


@pytest.mark.parametrize(
    "degenerate",
    [
        functools.partial(MIFGSM, decay=0.0),
        functools.partial(NIFGSM, decay=0.0),
        functools.partial(DIFGSM, probability=0.0),
        functools.partial(TIFGSM, kernel=1),
        functools.partial(TIFGSM, kernel=5, sigma=0.0),
    ],
    ids=["mi", "ni", "di", "ti-1x1", "ti-sigma-0"],
)
def test_an_attack_without_what_sets_it_apart_is_i_fgsm(last_iterate, degenerate):
    np.testing.assert_array_equal(last_iterate(degenerate), last_iterate(IFGSM))


@pytest.mark.parametrize("options", [{"neighbours": 0}, {"radius": 0.0, "neighbours": 2}], ids=str)
def test_no_variance_to_tune_leaves_mi_fgsm(last_iterate, options):
    np.testing.assert_allclose(last_iterate(functools.partial(VMIFGSM, **options)), last_iterate(MIFGSM), atol=1e-6)


@pytest.mark.parametrize("attack", [NIFGSM, DIFGSM, TIFGSM, functools.partial(VMIFGSM, neighbours=3)])
def test_what_sets_an_attack_apart_changes_its_path(last_iterate, attack):
    assert np.abs(last_iterate(attack) - last_iterate(IFGSM)).max() > EPSILON / 4


def nesterov(toy, steps, decay):
    """NI-FGSM as its paper has it, in float64; returns the losses at the points where gradients are taken."""
    weights = tuple(jnp.asarray(weight, jnp.float64) for weight in toy.weights)

    @jax.jit
    def look(images):
        def loss(images):
            chances = jax.nn.log_softmax(toy.apply(weights, images))
            losses = -chances[jnp.arange(len(images)), toy.labels]
            return losses.sum(), losses

        return jax.grad(loss, has_aux=True)(images)

    clean = toy.images.astype(np.float64)
    images, momentum, met = clean, np.zeros_like(clean), []
    for _ in range(steps):
        gradient, losses = look(images + EPSILON / steps * decay * momentum)
        met.append(losses)
        momentum = decay * momentum + gradient / np.abs(gradient).mean(axis=(1, 2, 3), keepdims=True)
        moved = images + EPSILON / steps * np.sign(momentum)
        images = np.clip(moved, clean - EPSILON, clean + EPSILON).clip(0, 1)
    return images, np.stack([*met, look(images)[1]], axis=1)


def test_look_ahead_is_that_of_its_paper(toy):
    result = NIFGSM(epsilon=EPSILON, steps=6, decay=0.8, trace=True)(toy.target, toy.images, toy.labels)
    with jax.enable_x64(True):
        images, met = nesterov(toy, 6, 0.8)
    np.testing.assert_allclose(result.trace, met, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(result.images, images, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 6, 3), (17, 16, 1)])
@pytest.mark.parametrize(("kernel", "sigma"), [(15, 7 / np.sqrt(3)), (3, 0.8)])
def test_gradients_are_convolved_with_a_gaussian(shape, kernel, sigma):
    gradient = np.random.default_rng(0).normal(size=shape)
    reach = np.arange(kernel) - kernel // 2
    weights = np.exp(-(reach[:, None] ** 2 + reach**2) / (2 * sigma**2))
    expected = scipy.ndimage.convolve(gradient, (weights / weights.sum())[:, :, None], mode="constant")
    ours = smoothed(jnp.float32(gradient), kernel=kernel, sigma=sigma)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize(("side", "offset"), [(9, 0), (8, 1), (6, 0), (6, 3), (5, 2), (1, 4)])
def test_placing_resizes_and_pads(side, offset):
    line = jnp.float32(np.random.default_rng(0).normal(size=9))
    small = jax.image.resize(line, (side,), "linear", antialias=False)
    expected = jnp.pad(small, (offset, 9 - side - offset))
    ours = placing(9, jnp.float32(side), jnp.float32(offset)) @ line
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_images_are_resized_to_the_sides_of_the_paper_and_half_are_left():
    def sides(key):
        moved = resized_and_padded(jnp.ones((32, 330, 1)), key, smallest=299 / 330, probability=0.5)
        return (moved.max(axis=(1, 2)) > 0).sum(), (moved.max(axis=(0, 2)) > 0).sum(), moved[0].max(), moved[:, 0].max()

    height, width, top, left = (np.asarray(value) for value in jax.jit(jax.vmap(sides))(jax.random.split(KEY, 500)))
    chosen = width < 330
    assert 0.4 < chosen.mean() < 0.6
    assert width[chosen].min() in (299, 300)
    assert width[chosen].max() in (328, 329)
    assert set(height[chosen]) <= {28, 29, 30, 31}
    assert {29, 30, 31} <= set(height[chosen])
    np.testing.assert_array_equal(height[~chosen], 32)
    # The place differs along the two sides: each touches the border in its own draws.
    assert ((top > 0) != (left > 0))[chosen].mean() > 0.05


@pytest.mark.usefixtures("x64")
def test_gradients_through_resizing_are_exact():
    random = np.random.default_rng(0)
    image, direction = random.uniform(size=(6, 8, 3)), random.normal(size=(6, 8, 3))

    def loss(image):
        moved = resized_and_padded(image, jax.random.key(3), smallest=0.6, probability=1.0)
        return (moved**3).sum()

    slope = (jax.grad(loss)(jnp.asarray(image)) * direction).sum()
    numerical = (loss(jnp.asarray(image + 1e-6 * direction)) - loss(jnp.asarray(image - 1e-6 * direction))) / 2e-6
    np.testing.assert_allclose(slope, numerical, rtol=1e-7)
    assert np.abs(loss(jnp.asarray(image)) - (image**3).sum()) > 1


def test_variance_is_that_of_the_step_before():
    rule = tuned_variance()
    random = np.random.default_rng(0)
    gradients, means = random.normal(size=(2, 3, 4, 4, 3))
    state, expected = rule.init(jnp.zeros((4, 4, 3))), np.zeros((4, 4, 3))
    for gradient, mean in zip(gradients, means, strict=True):
        update, state = rule.update(jnp.float32(gradient), state, neighbours=jnp.float32(mean))
        np.testing.assert_allclose(update, gradient + expected, atol=1e-6)
        expected = mean - gradient


def neighbours_of(images, **options):
    """Return the mean and the mean square of the neighbours' positions: the 'gradients' are the images themselves."""
    attack, keys = VMIFGSM(**options), jax.random.split(KEY, len(images))

    @jax.jit
    def found(epsilon):
        return [
            attack.surroundings(lambda moved, _, power=power: (0, 0, moved**power), images, epsilon, keys)["neighbours"]
            for power in (1, 2)
        ]

    return [np.asarray(each) for each in found(jnp.full(len(images), 0.1))]


def test_neighbours_are_uniform_around_each_image():
    images = jnp.zeros((2, 30, 30, 3))
    mean, square = neighbours_of(images, neighbours=40, radius=1.5)
    np.testing.assert_allclose(mean.mean(axis=(1, 2, 3)), 0, atol=2e-3)
    np.testing.assert_allclose(square.mean(axis=(1, 2, 3)), 0.15**2 / 3, rtol=0.02)
    assert np.abs(mean[0] - mean[1]).max() > 0.01  # each image has its own
    np.testing.assert_allclose(neighbours_of(images, neighbours=40, chunk=7)[0], mean, atol=1e-6)


def test_neighbours_are_other_ones_at_each_step(toy):
    result = VMIFGSM(epsilon=EPSILON, steps=4, neighbours=2, trace=True)(toy.target, toy.images, toy.labels, KEY)
    chunked = VMIFGSM(epsilon=EPSILON, steps=4, neighbours=2, chunk=1, trace=True)
    again = chunked(toy.target, toy.images, toy.labels, KEY)
    np.testing.assert_allclose(again.trace, result.trace, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(result.forwards, 5 * 3)
    np.testing.assert_array_equal(result.backwards, 5 * 3)


@pytest.mark.parametrize(
    "attack",
    [NIFGSM, functools.partial(DIFGSM, probability=0.0), functools.partial(VMIFGSM, neighbours=2)],
    ids=["ni", "di", "vmi"],
)
def test_expectation_is_honoured(noisy, attack):
    """The first step has neither momentum nor variance: it follows the mean gradient over the draws."""
    eot = Expectation(samples=6)
    result = attack(epsilon=EPSILON, steps=1, eot=eot)(noisy.target, noisy.images, noisy.labels, KEY)
    expected = FGSM(epsilon=EPSILON, eot=eot)(noisy.target, noisy.images, noisy.labels, KEY)
    np.testing.assert_array_equal(result.images, expected.images)
    single = FGSM(epsilon=EPSILON)(noisy.target, noisy.images, noisy.labels, KEY)
    assert np.abs(expected.images - single.images).max() > EPSILON
    looks = 3 if isinstance(attack, functools.partial) and attack.func is VMIFGSM else 1
    np.testing.assert_array_equal(result.forwards, 2 * 6 * looks)


@pytest.fixture(scope="module")
def everything(toy):
    return EVERYTHING(epsilon=EPSILON)(toy.target, toy.images, toy.labels, KEY)


def test_parts_mix_and_the_image_kept_is_judged_as_it_is(toy, everything):
    outputs = np.asarray(toy.target(jnp.asarray(everything.images)))
    np.testing.assert_array_equal(everything.success, outputs.argmax(axis=1) != toy.labels)
    plain = IFGSM(epsilon=EPSILON, steps=4)(toy.target, toy.images, toy.labels)
    assert everything.success.mean() >= 0.6 * plain.success.mean() > 0.2
    assert everything.norm.max() <= EPSILON + 1e-6
    found = drivers.verdict(EVERYTHING(epsilon=EPSILON), toy.target, toy.images, toy.labels, KEY, batch_size=16)
    assert (found.fooled >= everything.success).all()


def test_an_image_is_attacked_alike_in_any_company(toy, everything):
    keys = jax.vmap(lambda number: jax.random.fold_in(KEY, number))(jnp.arange(16))
    rows = np.array([5, 3, 9])
    result = EVERYTHING(epsilon=EPSILON)(toy.target, toy.images[rows], toy.labels[rows], keys[rows])
    np.testing.assert_allclose(result.images, everything.images[rows], atol=1e-5)


def test_targets_are_reached(toy):
    targets = (toy.labels + 2) % 5
    attack = EVERYTHING(epsilon=0.15)
    result = attack(toy.target, toy.images, toy.labels, KEY, targets=targets)
    found = np.asarray(toy.target(jnp.asarray(result.images))).argmax(axis=1)
    np.testing.assert_array_equal(result.success, found == targets)
    assert result.success.mean() >= 0.4


def test_numbers_images_and_labels_compile_nothing_new(toy, everything):
    with count_compilations() as compilations:
        attack = EVERYTHING(epsilon=0.01, decay=0.3, probability=0.9, sigma=None, radius=0.5)
        attack(toy.target, 1 - toy.images, (toy.labels + 1) % 5, jax.random.key(9))
    assert compilations.count("advance") == 0


def test_an_image_that_is_not_finite_spoils_no_other(toy):
    def apply(weights, images):
        broken = jnp.where(images[:, :1, 0, 0] == 0.5, jnp.asarray(jnp.nan, images.dtype), 0)
        return toy.apply(weights, images) + broken

    images = toy.images.copy()
    images[4, 0, 0, 0] = 0.5
    attack = VMIFGSM(epsilon=EPSILON, steps=3, neighbours=2)
    spoilt = attack(classifier(apply, toy.weights), images, toy.labels, KEY)
    assert np.flatnonzero(np.asarray(spoilt.status) == 2).tolist() in ([4], [])
    others = np.arange(16) != 4
    plain = attack(toy.target, toy.images, toy.labels, KEY)
    np.testing.assert_allclose(spoilt.images[others], plain.images[others], atol=1e-6)


def test_the_papers_mixtures():
    assert (MDIFGSM().decay, DIFGSM().decay, TIFGSM().decay) == (1.0, 0.0, 0.0)
    assert (TIFGSM().kernel, VMIFGSM().neighbours, VMIFGSM().radius) == (15, 20, 1.5)
    problem = Problem(None, None, None, None, epsilon=jnp.array([0.1, 0.2]))
    np.testing.assert_array_equal(IFGSM(steps=5).length(problem), VMIFGSM(steps=5).length(problem))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": 4}, "kernel must be an odd number of pixels, got 4"),
        ({"kernel": 0}, "kernel must be an odd number of pixels, got 0"),
        ({"probability": 1.5}, "probability must be a share from 0 to 1, got 1.5"),
        ({"resize_share": 1.2}, "resize_share must be above 0 and at most 1, or None, got 1.2"),
        ({"neighbours": -1}, "neighbours must be an integer of at least 0, got -1"),
        ({"chunk": 0}, "chunk must be an integer of at least 1, or None, got 0"),
        ({"radius": -1.0}, "radius must be a finite number of at least 0, got -1.0"),
        ({"sigma": -1.0}, "sigma must be a finite number of at least 0, got -1.0"),
        ({"decay": -1.0}, "decay must be a finite number of at least 0, got -1.0"),
        ({"epsilon": 8}, "got 8: in 0–255 units"),
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        TransferableAttack(**arguments)
    assert "\n" not in str(caught.value)


def test_random_parts_need_a_key(toy):
    for attack in (DIFGSM(), VMIFGSM()):
        with pytest.raises(ValueError, match="expected a key"):
            attack(toy.target, toy.images, toy.labels)
    NIFGSM(steps=1)(toy.target, toy.images, toy.labels)
