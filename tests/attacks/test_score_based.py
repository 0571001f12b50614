import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks
from jaxpurify.attacks.score_based import NES, SPSA
from jaxpurify.gradients import Expectation

KEY = jax.random.key(0)
EPSILON = 16 / 255
pytestmark = pytest.mark.usefixtures("lenient")  # Adam mixes dtypes


def run(toy, attack, **options):
    attack = attack(**{"epsilon": EPSILON, "queries": 305, "samples": 10, "chunk": 61, **options})
    return attacks.run(attack, toy.target, toy.images, toy.labels, KEY, batch_size=len(toy.images))


@pytest.fixture(scope="module", params=[NES, pytest.param(SPSA, marks=pytest.mark.slow)])
def attack(request):
    return request.param


def estimates(attack, toy, images, count, pairs):
    """Return independent estimates of the margin's gradient at images, shape (count, images, values)."""
    period = 2 * pairs + 1
    search = attack(queries=2 * period, samples=pairs, chunk=period, radius=0.003)
    advance = jax.jit(search.advance)
    found = []
    for number in range(count):
        problem = search.prepare(toy.target, images, toy.labels, jax.random.key(number), None)
        problem = jax.tree.map(jnp.asarray, problem)
        state = advance(toy.target, problem, search.blank(problem), jnp.uint32(0), jnp.uint32(0))
        found.append(np.asarray(state.estimate, np.float64).reshape(len(images), -1))
    return np.stack(found)


@pytest.mark.usefixtures("x64")
def test_estimates_of_a_linear_model_are_unbiased(linear, attack):
    """The mean of independent estimates is the gradient, within four standard errors, whose size is known too."""
    images = np.float64(linear.images) * 0.2 + 0.4
    towards = np.where(linear.labels == 0, 1, -1)[:, None] * linear.weights[0][:, 1].astype(np.float64)
    pairs, count = 4, 30
    found = estimates(attack, linear, images, count, pairs)
    square = (towards**2).sum(axis=1, keepdims=True)
    # E[(g·u)² u_i²] - g_i² for normal numbers and for signs.
    variance = square + towards**2 if attack is NES else square - towards**2
    error = np.sqrt(variance / (pairs * count))
    away = (found.mean(axis=0) - towards) / error
    assert np.abs(away).max() < 4.5
    assert 0.85 < (away**2).mean() < 1.15


def test_estimates_turn_to_the_gradient_as_samples_grow(toy, attack):
    images = toy.images * np.float32(0.9) + np.float32(0.05)

    def margins(images):
        outputs = toy.target(images)
        own = jax.nn.one_hot(toy.labels, 5, dtype=bool)
        return (jnp.where(own, -jnp.inf, outputs).max(axis=1) - jnp.where(own, outputs, 0).sum(axis=1)).sum()

    exact = np.asarray(jax.grad(margins)(jnp.asarray(images))).reshape(16, -1)
    cosines = []
    for pairs in (4, 64):
        found = estimates(attack, toy, images, 1, pairs)[0]
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1)
        cosines.append(np.median((found * exact).sum(axis=1) / lengths))
    # Of n random directions in d dimensions the cosine is about √(n/(n + d)).
    np.testing.assert_allclose(cosines, [np.sqrt(4 / 94), np.sqrt(64 / 154)], atol=0.1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_search_nears_the_optimum_of_a_linear_model(linear, attack, norm):
    weights = linear.weights[0][:, 1].astype(np.float64)
    images, epsilon = linear.images * np.float32(0.2) + np.float32(0.4), {"linf": 0.05, "l2": 0.3}[norm]
    gain = epsilon * np.linalg.norm(weights, ord={"linf": 1, "l2": 2}[norm])
    search = attack(norm=norm, epsilon=epsilon, queries=1281, samples=20, chunk=100)
    result = search(linear.target, images, linear.labels, KEY)
    clean = np.where(linear.labels == 0, 1, -1) * (images.reshape(12, -1) @ weights + 0.3)
    reached = (np.asarray(result.loss) - clean) / gain
    assert (reached <= 1 + 1e-4).all()
    assert np.median(reached) > 0.85
    assert (np.asarray(result.norm) <= epsilon * (1 + 1e-5)).all()


def test_more_is_fooled_than_by_noise_and_chunks_rows_and_devices_change_nothing(toy, attack):
    result = run(toy, attack)
    noise = attacks.RandomNoise(epsilon=EPSILON, draws=305, loss="margin")
    other = noise(toy.target, toy.images, toy.labels, KEY)
    assert result.success.sum() >= other.success.sum()
    assert result.loss.mean() > other.loss.mean() + 0.1
    rows = np.random.default_rng(0).permutation(16)
    keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(16))[rows]
    search = attack(epsilon=EPSILON, queries=305, samples=10, chunk=100)
    moved = attacks.run(search, toy.target, toy.images[rows], toy.labels[rows], keys, batch_size=8, devices="all")
    np.testing.assert_allclose(moved.loss, np.asarray(result.loss)[rows], atol=2e-2)
    wider, twice = run(toy, attack, epsilon=2 * EPSILON), run(toy, attack, restarts=2)
    assert wider.success.sum() >= result.success.sum()
    assert (twice.loss >= result.loss).all()


def test_a_random_target_is_averaged_and_counted(noisy, attack):
    search = attack(epsilon=0.1, queries=2000, samples=10, chunk=200, eot=Expectation(samples=4), step_fraction=0.2)
    result = search(noisy.target, noisy.images, noisy.labels, KEY)
    np.testing.assert_array_equal(result.forwards, 4 * (499 // 21 * 21 + 1))
    weights = noisy.weights * np.where(noisy.labels == 0, 1, -1)[:, None, None, None]
    gain = (weights * (np.asarray(result.images) - noisy.images)).sum(axis=(1, 2, 3))
    assert (gain / (0.1 * np.abs(noisy.weights).sum())).min() > 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l1"}, 'norm of NES must be "linf" or "l2", got \'l1\''),
        ({"samples": 0}, "samples must be an integer of at least 1, got 0"),
        ({"radius": 0.0}, "radius must be a positive number, got 0.0"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NES(**options)
