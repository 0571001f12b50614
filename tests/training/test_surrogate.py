import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxpurify as jp
from jaxpurify import parallel, training
from jaxpurify.classifiers import of_nnx
from jaxpurify.training.loop import _described
from jaxpurify.training.programs import Programs


@jp.purifier
class Inverted:
    """The negative of an image on sixteen levels: its gradient is zero, and the identity's points the wrong way."""

    levels: int = jp.static(15)

    def __call__(self, images, key=None):
        return jnp.round((1 - images) * self.levels) / self.levels


@jp.purifier
class Scaled:
    """Adds one random value to all of an image; its leaf is an array."""

    random = True
    strength: jax.Array

    def __call__(self, images, key=None):
        drawn = jax.vmap(lambda key: jax.random.uniform(key, (1, 1, 1), images.dtype))(key)
        return images + drawn * self.strength


STEPS = 120
SETTINGS = {"batch_size": 16, "learning_rate": 1e-2, "average": 0.9}


@pytest.fixture(scope="module")
def task():
    # Far more noise than the attack's: photographs are smooth, and it alone shows the network how fine detail changes.
    return training.Surrogate(of=Inverted(), width=8, blocks=1, patch=8, epsilon=0.25)


@pytest.fixture(scope="module")
def surrogate(task):
    """Train without a run folder, which would take most of the time."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        source, random = task.prepare("photos"), np.random.default_rng(0)
        placement = parallel.placement(None)
        recipe = training.Recipe(**SETTINGS)
        programs = Programs(task, recipe, steps=STEPS, rngs=nnx.Rngs(0), placement=placement)
        state, keys = programs.start, jax.random.split(jax.random.key(0), STEPS)
        for key in keys:
            batch = task.batch(source, random.integers(len(source), size=16), random)
            state, _ = programs.advance(state, [placement.put(batch)], [key])
        return task.function(programs.module(state))


@pytest.fixture(scope="module")
def images():
    return jp.datasets.load("photos", split="test", limit=64).images[:, ::2, ::2]


@pytest.fixture(scope="module")
def left(images):
    """Attack a purifier in front of a random linear classifier; the share of predictions that PGD leaves."""
    weights = np.random.default_rng(0).normal(size=(images[0].size, 2))
    # Blind to the mean, so that an attack within the ball is stronger than what tells images apart.
    weights = jnp.asarray(weights - weights.mean(axis=0, keepdims=True), jnp.float32)
    linear = jp.classifier(lambda weights, images: images.reshape(len(images), -1) @ weights, weights)
    attack = jp.attacks.PGD(norm="linf", epsilon=8 / 255, steps=10, random_start=False)

    def share(purifier):
        target = jp.Defended(linear, purifier)
        labels = jnp.argmax(target(images), axis=1)
        attacked = attack(target, images, labels, jax.random.key(1)).images
        return float(np.mean(jnp.argmax(target(attacked), axis=1) == labels))

    return share


def test_a_learned_surrogate_breaks_what_the_identity_does_not(surrogate, left):
    purifier = Inverted()
    assert left(jp.gradients.straight_through(purifier)) >= 0.9
    assert left(jp.gradients.substitute(purifier, surrogate=surrogate)) <= 0.1


def test_the_surrogate_imitates_the_purifier(surrogate, images):
    # The levels are 1/15 apart, so the best smooth imitation is wrong by a uniform error: 1/15²/12, or 34.3 dB.
    assert 20 < np.mean(jp.metrics.psnr(surrogate(images, None), Inverted()(images))) < 34.4


def test_a_random_purifier_is_imitated_in_the_mean_with_fresh_keys_for_each_image():
    task = training.Surrogate(of=Scaled(strength=jnp.float32(0.5)), epsilon=0.1, patch=8)
    batch = {"images": np.full((256, 8, 8, 3), 102, np.uint8)}
    seen, purified = task._examples(batch, jax.random.key(0))
    shifts = np.asarray(purified - seen)
    np.testing.assert_allclose(shifts - shifts[:, :1, :1, :1], 0, atol=1e-6)
    assert len(np.unique(shifts[:, 0, 0, 0].round(5))) > 200
    # The uniform law of the perturbation: within 0.1 of 0.4, with mean 0.4 and variance 0.2² / 12.
    assert 0.3 <= seen.min() < 0.301 < 0.499 < seen.max() <= 0.5 + 1e-6
    np.testing.assert_allclose(np.var(seen), 0.2**2 / 12, rtol=0.02)
    # The identity in the place of the network is wrong by the drawn value, whose square has mean 0.5² / 3.
    losses, _ = task.loss(lambda images: images, batch, jax.random.key(0))
    np.testing.assert_allclose(losses, shifts[:, 0, 0, 0] ** 2, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(losses.mean(), 0.25 / 3, rtol=0.2)


@pytest.mark.parametrize(("scale", "height", "width"), [(2.0, 24, 20), (0.5, 6, 5)])
def test_purifiers_that_change_the_size_are_imitated_at_the_size_of_their_output(scale, height, width):
    resizing = jp.purifiers.Resizing(scale=scale, back=False)
    task = training.Surrogate(of=resizing, width=2, blocks=1, patch=8)
    surrogate = task.function(task.network(nnx.Rngs(0)))
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 12, 10, 3)), jnp.float32)
    assert surrogate(images).shape == resizing(images).shape == (2, height, width, 3)
    # The untrained network adds nothing to the bilinear interpolation.
    wanted = jax.image.resize(images, (2, height, width, 3), "bilinear")
    np.testing.assert_allclose(surrogate(images), wanted, atol=1e-6)
    changed = jp.gradients.substitute(resizing, surrogate=surrogate)
    assert jnp.abs(jax.grad(lambda images: changed(images).sum())(images)).min() > 0


def test_other_numbers_of_a_purifier_are_another_run():
    def described(strength):
        return _described(training.Surrogate(of=Scaled(strength=jnp.asarray(strength)), patch=8))["of"]

    long = np.linspace(0, 1, 4096).reshape(-1, 1, 1, 1)[:1]
    assert described(long) == described(long.copy()) != described(long + 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"of": Inverted}, "of must be a purifier, images to images, got Inverted"),
        ({"of": 3}, "of must be a purifier, images to images, got int"),
        ({"of": jp.Ensemble(stage=jp.purifiers.GaussianNoise())}, "take the purifier within the ensemble"),
        ({"of": lambda images: images[..., :1]}, "of must keep the three channels"),
        ({"of": Inverted(), "epsilon": 8.0}, "divide by 255"),
        ({"of": Inverted(), "blocks": 0}, "blocks must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        training.Surrogate(**arguments)


def test_a_network_can_be_imitated_as_it_is():
    network = training.Surrogate(of=Inverted(), width=2, blocks=1).network(nnx.Rngs(0))
    task = training.Surrogate(of=network, width=2, blocks=1)
    images = jnp.full((1, 8, 8, 3), 0.25, jnp.float32)
    np.testing.assert_array_equal(task.function(network)(images), of_nnx(network)(images))


@pytest.mark.slow
def test_another_purifier_is_another_run(lenient, task, tmp_path):
    def fit(of):
        task = training.Surrogate(of=of, width=4, blocks=1, patch=8)
        return training.fit(task, "photos", steps=2, run=tmp_path, key=jax.random.key(0), recipe=recipe)

    recipe = training.Recipe(batch_size=4)
    trained = fit(Inverted())
    assert json.loads((tmp_path / "config.json").read_text())["arguments"]["task"]["of"] == "Inverted(levels=15)"
    held_out = next(record for record in reversed(trained.records) if record["kind"] == "held out")
    assert held_out.keys() >= {"loss", "psnr", "psnr of the identity"}
    fit(Inverted())
    with pytest.raises(ValueError, match="holds a training with other task"):
        fit(Inverted(levels=7))
