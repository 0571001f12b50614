import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks
from jaxpurify.attacks.square import HALVED_AFTER, Square, _bump
from jaxpurify.gradients import Expectation
from jaxpurify.models import classifier
from jaxpurify.testing import count_compilations

KEY = jax.random.key(0)
EPSILON = 16 / 255


def run(toy, **options):
    options = {"epsilon": EPSILON, "queries": 200, "chunk": 50, **options}
    return attacks.run(Square(**options), toy.target, toy.images, toy.labels, KEY, batch_size=len(toy.images))


@pytest.fixture(scope="module")
def found(toy):
    """One search in each norm, shared by the tests that look at what it found."""
    return {"linf": run(toy), "l2": run(toy, norm="l2", epsilon=0.5)}


def test_the_optimum_of_a_linear_model_is_reached(linear):
    """In the linf norm the worst image is known: each value at the better side of the ball and of [0, 1]."""
    weights = linear.weights[0][:, 1].astype(np.float64)
    pixels = linear.images.reshape(12, -1).astype(np.float64)
    towards = np.where(linear.labels == 0, 1, -1)[:, None] * weights
    worst = np.clip(pixels + EPSILON * np.sign(towards), 0, 1)
    optimum = np.where(linear.labels == 0, 1, -1) * (worst @ weights + 0.3)
    clean = np.where(linear.labels == 0, 1, -1) * (pixels @ weights + 0.3)
    result = run(linear, queries=1000)
    # Single pixels are drawn at the end, so that nearly every sign is found.
    assert (result.loss <= optimum + 1e-4).all()
    assert ((result.loss - clean) / (optimum - clean)).min() > 0.95


def test_images_are_corners_of_the_ball(toy, found):
    moved = np.asarray(found["linf"].images) - toy.images
    lower, upper = np.maximum(toy.images - EPSILON, 0) - toy.images, np.minimum(toy.images + EPSILON, 1) - toy.images
    away = np.minimum(np.abs(moved - lower), np.abs(moved - upper)).max(axis=(1, 2, 3))
    still = np.abs(moved).max(axis=(1, 2, 3)) == 0
    assert still[0] or away[0] < 1e-6
    assert (away[1:] < 1e-6).all()
    assert (np.asarray(found["linf"].norm) <= EPSILON + 1e-6).all()


def test_the_l2_ball_is_filled_and_never_left(toy, found):
    norms = np.asarray(found["l2"].norm)
    assert (norms <= 0.5 + 1e-6).all()
    assert np.median(norms) > 0.45  # less where [0, 1] binds


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_loss_is_that_of_the_image_returned_and_rises(toy, found, norm):
    result = found[norm]
    outputs = np.asarray(toy.target(jnp.asarray(result.images))).copy()
    own = outputs[np.arange(16), toy.labels]
    outputs[np.arange(16), toy.labels] = -np.inf
    np.testing.assert_allclose(result.loss, outputs.max(axis=1) - own, atol=1e-5)
    np.testing.assert_array_equal(result.success, result.loss > 0)
    noise = attacks.RandomNoise(epsilon=EPSILON if norm == "linf" else 0.5, norm=norm, draws=200, loss="margin")
    other = noise(toy.target, toy.images, toy.labels, KEY)
    assert result.loss.mean() > other.loss.mean() + 0.1
    assert result.success.sum() >= other.success.sum()


def test_squares_shrink_by_the_schedule_of_the_paper():
    """The share is p up to the first of its iterations, half of it up to the second and so on, times budget/10,000."""
    attack = Square(queries=5000)
    for iteration in [0, 4, 5, 6, 25, 26, 100, 101, 250, 251, 999, 1000, 1001, 2001, 4000, 4001, 4999]:
        scaled = int(iteration / 5000 * 10_000)
        share = 0.8 / 2 ** sum(scaled > after for after in HALVED_AFTER)
        side = max(round(np.sqrt(share * 32 * 32)), 1)
        assert attack._size(jnp.uint32(iteration + 2), 5000, (32, 32)) == side, iteration


@pytest.mark.parametrize("size", [3, 5, 9])
def test_bumps_are_the_sums_of_rectangles_of_the_paper(size):
    """Equation 2 of arXiv 1912.00049, summed rectangle by rectangle."""

    def rectangles(rows, columns):
        total = np.zeros((rows, columns))
        for k in range(max(rows // 2, columns // 2) + 1):
            top, left = rows // 2 - k, columns // 2 - k
            total[max(top, 0) : rows // 2 + k + 1, max(left, 0) : columns // 2 + k + 1] += 1 / (k + 1) ** 2
        return total / np.linalg.norm(total)

    upper, lower = rectangles(size // 2, size), rectangles(size - size // 2, size)
    expected = np.concatenate([upper, -lower]) / np.sqrt(2)
    bump = np.asarray(_bump(jnp.int32(size), 10, jnp.float32))
    np.testing.assert_allclose(bump[:size, :size], expected, atol=1e-6)
    assert np.abs(bump[size:]).max() == np.abs(bump[:, size:]).max() == 0


def test_a_verdict_counts_the_queries_up_to_the_first_success(toy):
    """Followed one query at a time with the full budget: the first after which the kept image succeeds."""
    attack = Square(epsilon=EPSILON, queries=60, chunk=1, trace=True)
    trace = np.asarray(attack(toy.target, toy.images, toy.labels, KEY).trace)
    clean = np.asarray(toy.target(jnp.asarray(toy.images))).argmax(axis=1) != toy.labels
    first = np.where(clean, 1, np.where((trace > 0).any(axis=1), (trace > 0).argmax(axis=1) + 1, 60))
    verdict = attacks.verdict(Square(epsilon=EPSILON, queries=60, chunk=25), toy.target, toy.images, toy.labels, KEY)
    np.testing.assert_array_equal(verdict.forwards, first)
    np.testing.assert_array_equal(verdict.fooled, clean | (trace > 0).any(axis=1))
    assert len(np.unique(first)) > 3


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_results_depend_neither_on_chunks_nor_on_rows(toy, found, norm):
    options = {"norm": norm, "epsilon": EPSILON if norm == "linf" else 0.5, "queries": 200}
    rows = np.random.default_rng(0).permutation(16)
    keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(16))[rows]
    other = attacks.run(
        Square(**options, chunk=80), toy.target, toy.images[rows], toy.labels[rows], keys, batch_size=16
    )
    np.testing.assert_array_equal(other.images, np.asarray(found[norm].images)[rows])


def test_results_are_the_same_on_two_devices(toy, found):
    attack = Square(epsilon=EPSILON, queries=200, chunk=50)
    two = attacks.run(attack, toy.target, toy.images, toy.labels, KEY, batch_size=8, devices="all")
    np.testing.assert_allclose(two.loss, found["linf"].loss, atol=1e-5)
    np.testing.assert_array_equal(two.success, found["linf"].success)


def test_larger_balls_and_budgets_fool_more(toy):
    robust = [[1 - run(toy, epsilon=e, queries=q).success.mean() for e in (4 / 255, EPSILON)] for q in (20, 400)]
    assert robust[0][0] >= robust[1][0] > robust[1][1]
    assert robust[0][0] >= robust[0][1] > robust[1][1]


def test_restarts_are_never_weaker(toy, found):
    twice = run(toy, restarts=2)
    assert (twice.loss >= found["linf"].loss).all()
    assert (twice.loss > found["linf"].loss).any()
    np.testing.assert_array_equal(twice.forwards, 400)


def test_targets_are_reached(toy):
    targets = ((toy.labels + 1) % 5).astype(np.int32)
    attack = Square(epsilon=0.3, queries=300, chunk=100)
    result = attack(toy.target, toy.images, toy.labels, KEY, targets)
    reached = np.asarray(toy.target(jnp.asarray(result.images))).argmax(axis=1) == targets
    np.testing.assert_array_equal(result.success, reached)
    assert reached.mean() > 0.5


def test_epsilon_and_images_do_not_compile_anew(toy):
    with count_compilations() as compilations:
        for epsilon in (0.03, 0.07):
            Square(epsilon=epsilon, queries=30, chunk=13)(toy.target, toy.images, toy.labels, KEY)
        Square(epsilon=0.03, queries=30, chunk=13)(toy.target, 1 - toy.images, toy.labels, jax.random.key(1))
    assert compilations.count("advance") == 1


def test_a_random_target_is_compared_on_the_same_draws(noisy):
    attack = Square(epsilon=0.1, queries=800, chunk=100, eot=Expectation(samples=4, randomness="frozen"))
    result = attack(noisy.target, noisy.images, noisy.labels, KEY)
    np.testing.assert_array_equal(result.forwards, 800)
    verdict = attacks.verdict(attack, noisy.target, noisy.images, noisy.labels, KEY)
    # By the sign of its mean weights the model is known: there the attacker can do no better than this.
    towards = np.where(noisy.labels == 0, 1, -1)[:, None, None, None] * np.sign(noisy.weights)
    best = np.clip(noisy.images + np.float32(0.1) * towards, 0, 1)
    draws = [np.asarray(noisy.target(best, jax.random.key(i))).argmax(axis=1) == noisy.labels for i in range(20)]
    assert np.mean(draws) - 0.1 <= verdict.draw_accuracy <= np.mean(draws) + 0.2


def test_one_image_that_is_not_finite_is_flagged_and_harms_no_other(toy, found):
    def apply(weights, images):
        broken = (images[:, 0, 0, 0] == toy.images[3, 0, 0, 0])[:, None]
        return jnp.where(broken, jnp.nan, toy.apply(weights, images))

    attack = Square(epsilon=EPSILON, queries=200, chunk=50)
    target = classifier(apply, toy.weights)
    result = attacks.run(attack, target, toy.images, toy.labels, KEY, batch_size=16)
    others = np.arange(16) != 3
    np.testing.assert_allclose(result.loss[others], found["linf"].loss[others], atol=1e-5)
    everywhere = classifier(lambda weights, images: toy.apply(weights, images) * jnp.nan, toy.weights)
    np.testing.assert_array_equal(attack(everywhere, toy.images, toy.labels, KEY).status, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l1"}, 'norm of Square must be "linf" or "l2", got \'l1\''),
        ({"queries": 0}, "queries must be an integer of at least 1, got 0"),
        ({"chunk": -3}, "chunk must be an integer of at least 1, got -3"),
        ({"initial_share": 1.5}, "initial_share must be above 0 and at most 1, got 1.5"),
        ({"eot": Expectation(samples=3)}, "Square compares answers to different queries, got eot with fresh draws"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Square(**options)


@pytest.mark.usefixtures("x64", "lenient")  # argmax is of 64 bits, labels of 32
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_float64_images_stay_so(toy, norm):
    weights = tuple(np.float64(weight) for weight in toy.weights)
    attack = Square(epsilon=EPSILON, norm=norm, queries=5, chunk=5)
    result = attack(classifier(toy.apply, weights), np.float64(toy.images), toy.labels, KEY)
    assert result.images.dtype == np.float64
