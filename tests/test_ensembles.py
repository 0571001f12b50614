"""Ensembles: the average of a classifier's answers, whatever the purifier, through every threat model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpurify as jp
from jaxpurify import gradients
from jaxpurify import keys as jk
from jaxpurify.ensembles import CropEnsemble, Ensemble
from jaxpurify.models import Defended, Repeat, Sequential, classifier, purifier
from jaxpurify.purifiers import BitDepth, GaussianSmoothing
from jaxpurify.purifiers.gaussian_noise import GaussianNoise
from jaxpurify.purifiers.random_crop import RandomCrop
from jaxpurify.purifiers.random_resizing import RandomResizing
from jaxpurify.testing import check_purifier, count_compilations

RANDOM = np.random.default_rng(0)
IMAGES = jnp.asarray(RANDOM.uniform(0.2, 0.8, (3, 8, 8, 3)), jnp.float32)
KEYS = jk.per_image(jax.random.key(5), 3)
WEIGHTS = jnp.asarray(RANDOM.normal(size=(3, 4)) * 9, jnp.float32)
LINEAR = classifier(lambda weights, images: (images**2).mean(axis=(1, 2)) @ weights, WEIGHTS, name="linear")
LABELS = jnp.array([0, 1, 2])
say = jax.jit(lambda model, images, keys: model(images, keys))


@purifier
class Shade:
    """Darken every image by a random factor, taken from the key's own bits: quick to compile."""

    random = True
    level: float = 0.5

    def __call__(self, images, key=None):
        share = (jax.random.key_data(key)[:, 0] % 1024).astype(images.dtype) / 1024
        return images * (1 - self.level * share.reshape(-1, 1, 1, 1))


@purifier
class Rounded:
    """A random factor and steps, whose surrogate is the same without the steps."""

    random = True

    def __call__(self, images, key=None):
        return jnp.round(8 * Shade()(images, key)) / 8

    def surrogate(self):
        return Shade()


def members(stage, samples, model=LINEAR):
    """Return what the classifier says about each draw, one call a draw."""
    draws = [say(Defended(model, stage), IMAGES, jk.fold(KEYS, draw)) for draw in range(samples)]
    return np.asarray(jnp.stack(draws), np.float64)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_it_averages_the_probabilities_of_its_draws(chunk):
    stage = Shade()
    found = say(Defended(LINEAR, Ensemble(stage=stage, samples=7, chunk=chunk)), IMAGES, KEYS)
    expected = np.log(np.exp(log_softmax(members(stage, 7))).mean(axis=0))
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(jax.nn.softmax(found), np.exp(expected), atol=1e-6)


def test_it_averages_logits():
    stage = RandomCrop(share=0.5)
    found = say(Ensemble(stage=stage, samples=5, of="logits").around(LINEAR), IMAGES, KEYS)
    np.testing.assert_allclose(found, members(stage, 5).mean(axis=0), atol=2e-6)


def test_crops_are_an_ensemble_of_random_crops():
    found = say(CropEnsemble(share=0.5, samples=4).around(LINEAR), IMAGES, KEYS)
    expected = say(Ensemble(stage=RandomCrop(share=0.5), samples=4).around(LINEAR), IMAGES, KEYS)
    np.testing.assert_array_equal(found, expected)


def test_more_draws_come_closer_to_the_expectation():
    def spread(samples):
        model = Defended(LINEAR, Ensemble(stage=Shade(), samples=samples, of="logits"))
        keys = jk.per_image(jax.random.key(1), 40)
        return float(say(model, jnp.repeat(IMAGES[:1], 40, axis=0), keys).std(axis=0).mean())

    # Four times, give or take what 40 draws of either are good for.
    assert 3 < spread(2) / spread(32) < 5.3


def test_its_gradient_is_that_of_the_average_and_enters_the_classifiers_weights():
    stage = Shade()

    def loss(model, images):
        return jp.attacks.losses.cross_entropy(model(images, KEYS), LABELS).sum()

    def one_by_one(model, images):
        logits = [jax.nn.log_softmax(model(stage(images, jk.fold(KEYS, draw)))) for draw in range(5)]
        return -jnp.log(jnp.exp(jnp.stack(logits)).mean(axis=0))[jnp.arange(3), LABELS].sum()

    ensemble = Defended(LINEAR, Ensemble(stage=stage, samples=5, chunk=2))
    to_model, to_images = jax.jit(jax.grad(loss, argnums=(0, 1)))(ensemble, IMAGES)
    to_linear, expected = jax.jit(jax.grad(one_by_one, argnums=(0, 1)))(LINEAR, IMAGES)
    np.testing.assert_allclose(to_images, expected, atol=1e-6)
    np.testing.assert_allclose(to_model.classifier.variables, to_linear.variables, atol=1e-5)


_slope = jax.jit(jax.grad(lambda images, model: model(images, KEYS)[:, 0].sum()))


def slope(model):
    return np.asarray(_slope(IMAGES, model))


@pytest.mark.parametrize("before", [(), (BitDepth(bits=4.0),)], ids=["alone", "after bit depth"])
def test_gradient_wrappers_change_what_it_draws_from_and_not_what_it_says(before):
    ensemble = Ensemble(stage=Rounded(), samples=3)
    model = Sequential(*before, ensemble) if before else ensemble
    plain = Defended(LINEAR, model)
    assert not slope(plain).any()
    assert gradients.has_surrogate(model)
    draws = [Sequential(*before, Rounded())] if before else [Rounded()]
    for wrapper in (gradients.straight_through, gradients.substitute, gradients.rematerialised):
        wrapped = Defended(LINEAR, wrapper(model))
        np.testing.assert_allclose(say(wrapped, IMAGES, KEYS), say(plain, IMAGES, KEYS), atol=1e-6)
        expected = Defended(LINEAR, Ensemble(stage=wrapper(draws[0]), samples=3))
        np.testing.assert_allclose(slope(wrapped), slope(expected), atol=1e-6)
        assert slope(wrapped).any() == (wrapper is not gradients.rematerialised)
    stand_in = gradients.substitute(model, GaussianSmoothing())
    np.testing.assert_allclose(say(Defended(LINEAR, stand_in), IMAGES, KEYS), say(plain, IMAGES, KEYS), atol=1e-6)
    assert slope(Defended(LINEAR, stand_in)).any()


def test_it_may_end_a_sequence_and_every_draw_passes_all_stages():
    sequence = Sequential(Shade(), GaussianSmoothing(), CropEnsemble(samples=3, share=0.5))
    assert sequence.random
    assert sequence.is_ensemble
    stage = Sequential(Shade(), GaussianSmoothing(), RandomCrop(share=0.5))
    expected = say(Defended(LINEAR, Ensemble(stage=stage, samples=3)), IMAGES, KEYS)
    np.testing.assert_array_equal(say(Defended(LINEAR, sequence), IMAGES, KEYS), expected)
    np.testing.assert_array_equal(say(Defended(LINEAR, Sequential(sequence)), IMAGES, KEYS), expected)
    np.testing.assert_array_equal(say(sequence, IMAGES, KEYS), say(stage, IMAGES, jk.fold(KEYS, 0)))


def test_what_follows_an_ensemble_is_refused():
    with pytest.raises(TypeError, match=r"stage 0 of Sequential is an ensemble \(CropEnsemble\).*: put it last"):
        Sequential(CropEnsemble(), GaussianSmoothing())
    with pytest.raises(TypeError, match=r"stage 0 of Sequential is an ensemble \(Sequential\).*: put it last"):
        Sequential(Sequential(CropEnsemble()), GaussianSmoothing())
    with pytest.raises(ValueError, match="Repeat needs a purifier, got an ensemble"):
        Repeat(stage=CropEnsemble(), times=2)


def test_it_purifies_no_image():
    for model, name in ((CropEnsemble(), "CropEnsemble"), (Sequential(CropEnsemble()), "Sequential")):
        with pytest.raises(
            TypeError, match=f"{name} is an ensemble, which averages what a classifier says and returns"
        ):
            jp.purify(model, np.asarray(IMAGES), key=jax.random.key(0))


def test_nan_of_one_draw_is_nan_of_the_average():
    images = IMAGES.at[1, 0, 0, 0].set(jnp.nan)
    outputs = say(Defended(LINEAR, Ensemble(stage=Shade(), samples=3)), images, KEYS)
    np.testing.assert_array_equal(np.isnan(outputs).all(axis=1), [False, True, False])


def test_a_random_classifier_draws_anew_for_every_member():
    def noisy(images, key):
        return jax.vmap(lambda k: jax.random.normal(k, (2,)))(key) + 0 * images.mean(axis=(1, 2, 3))[:, None]

    model = classifier(noisy, random=True)
    spread = say(Ensemble(stage=Shade(), samples=200, of="logits").around(model), IMAGES, KEYS)
    assert np.abs(spread).max() < 5 / np.sqrt(200)


def test_sizes_are_checked_as_those_of_its_purifier():
    fixed = classifier(LINEAR, image_shape=(8, 8, 3))
    Defended(fixed, CropEnsemble())
    with pytest.raises(ValueError, match="which linear cannot take"):
        Defended(fixed, Ensemble(stage=RandomResizing()))


def test_new_shares_do_not_compile_anew():
    with count_compilations() as compilations:
        run = jax.jit(lambda model, images, keys: model(images, keys))
        for share in (0.3, 0.5):
            run(Defended(LINEAR, CropEnsemble(share=share, samples=2)), IMAGES, KEYS)
    assert compilations.count("<lambda>") == 1


def test_it_is_evaluated_under_every_threat_model():
    purifiers = {
        "shaded": Ensemble(stage=Shade(), samples=2),
        "rounded": Sequential(BitDepth(), Ensemble(stage=Rounded(), samples=2)),
    }
    evaluation = jp.evaluate(
        LINEAR,
        purifiers,
        (np.asarray(IMAGES), np.asarray(LABELS)),
        attacks=[jp.attacks.PGD(steps=1)],
        threat_models=("blind", "bpda", "substitute", "full"),
        key=jax.random.key(0),
    )
    evaluated = {(r["purifier"], r["threat_model"]) for r in evaluation.records if r["purifier"] in purifiers}
    assert ("shaded", "full") in evaluated
    assert ("rounded", "full") in evaluated
    assert ("rounded", "substitute") in evaluated
    assert ("shaded", "substitute") not in evaluated


@pytest.mark.slow
def test_where_a_purifier_stands_it_keeps_the_contract():
    check_purifier(CropEnsemble())
    check_purifier(Ensemble(stage=RandomResizing(), samples=2), size=(8, 9))
    check_purifier(Sequential(BitDepth(), CropEnsemble()), size=(8, 9), channels=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": 0}, "samples must be an integer of at least 1, got 0"),
        ({"of": "loss"}, "of must be one of probabilities, logits, got 'loss'"),
        ({"chunk": 31}, r"chunk must be an integer from 1 to samples \(30\), got 31"),
        (
            {"stage": GaussianSmoothing()},
            "stage must be random, got GaussianSmoothing, of which every draw is the same",
        ),
        ({"stage": CropEnsemble()}, "stage must be a random purifier, got an ensemble: draw more samples instead"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(fields, message):
    with pytest.raises(ValueError, match=message):
        Ensemble(**({"stage": GaussianNoise()} | fields))


def test_a_class_is_no_stage():
    with pytest.raises(TypeError, match="stage must be a random purifier, got 'GaussianNoise'"):
        Ensemble(stage=GaussianNoise)
