"""Feature squeezing: the paper's score and threshold, and attacks that do and do not know of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpurify as jp
from jaxpurify import keys as jk
from jaxpurify.detectors import FeatureSqueezing
from jaxpurify.models import classifier
from jaxpurify.purifiers import BitDepth, GaussianSmoothing
from jaxpurify.purifiers.gaussian_noise import GaussianNoise
from jaxpurify.testing import count_compilations

SQUEEZERS = (BitDepth(bits=3.0), GaussianSmoothing(sigma=0.7))


@pytest.fixture(scope="module")
def model():
    return jp.networks.load_classifier("photos-cnn")


@pytest.fixture(scope="module")
def photos():
    return jp.datasets.load("photos", split="train", limit=200).images


@pytest.fixture(scope="module")
def detector(model, photos):
    return FeatureSqueezing(squeezers=SQUEEZERS).calibrated(model, photos)


def probabilities(logits):
    powers = np.exp(np.asarray(logits, np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def test_the_score_is_the_largest_distance_of_probabilities(model, photos):
    images = jnp.asarray(photos[:5])
    distances = [
        np.abs(probabilities(model(images)) - probabilities(model(squeeze(images)))).sum(axis=1)
        for squeeze in SQUEEZERS
    ]
    score = FeatureSqueezing(squeezers=SQUEEZERS).score(model, images)
    np.testing.assert_allclose(score, np.max(distances, axis=0), atol=1e-5)
    assert len(set(np.argmax(distances, axis=0))) == 2  # neither squeezer stands for both


def test_the_default_squeezers_are_those_that_the_paper_joins():
    bits, median, means = FeatureSqueezing().squeezers
    assert bits.bits == 5
    assert median.size == 2
    assert (2 * means.patch_distance + 1, means.patch_size, round(255 * means.h)) == (11, 3, 4)


@pytest.mark.parametrize(("rate", "flagged"), [(0.05, 10), (0.0, 0), (0.02, 4), (0.018, 3)])
def test_the_threshold_calls_as_many_legitimate_images_adversarial_as_allowed(model, photos, detector, rate, flagged):
    chosen = detector.calibrated(model, photos, false_positive_rate=rate)
    scores = np.sort(np.concatenate([detector.score(model, jnp.asarray(part)) for part in np.split(photos, 2)]))
    assert scores[-flagged - 2] < chosen.threshold < scores[len(scores) - flagged :].min(initial=2.1)
    assert int(chosen.detects(model, jnp.asarray(photos)).sum()) == flagged


def test_a_threshold_lies_a_rounding_above_the_scores_that_it_lets_pass(model, photos, detector):
    scores = np.sort(detector.score(model, jnp.asarray(photos[:40])))
    assert scores[-1] < detector.calibrated(model, photos[:40], false_positive_rate=0.0).threshold < scores[-1] + 3e-5
    few = detector.calibrated(model, photos[:40], false_positive_rate=0.1).threshold
    assert scores[-5] < few < min(scores[-4], scores[-5] + 3e-5)


def test_calibrating_compiles_one_program(model, photos):
    chosen = FeatureSqueezing(squeezers=(BitDepth(bits=2.0),))
    with count_compilations() as compilations:
        chosen.calibrated(model, photos[:70], batch_size=32)
        chosen.calibrated(model, photos[:50], batch_size=32)
    assert compilations.count("<lambda>") == 1


def test_without_a_threshold_nothing_is_detected(model, photos):
    with pytest.raises(ValueError, match="FeatureSqueezing has no threshold yet: choose one with"):
        FeatureSqueezing(squeezers=SQUEEZERS).detects(model, photos[:2])


def test_an_image_that_the_model_has_no_answer_for_is_detected(model, photos, detector):
    def silent(images):
        return jnp.where((images[:, 0, 0, 0] == 1)[:, None], jnp.nan, model(images))

    images = jnp.asarray(photos[:3]).at[1, 0, 0, 0].set(1)
    assert detector.detects(silent, images).tolist()[1]


def test_gradients_are_finite_where_squeezing_changes_nothing(model):
    images = jnp.concatenate([jnp.zeros((1, 8, 8, 3)), jnp.ones((1, 8, 8, 3)), jnp.full((1, 8, 8, 3), 3 / 7)])
    slopes = jax.jit(jax.grad(lambda x: FeatureSqueezing(squeezers=SQUEEZERS).score(model, x).sum()))(images)
    assert np.isfinite(slopes).all()


def test_random_squeezers_need_keys_and_draw_apart(model, photos):
    images, keys = jnp.asarray(photos[:2]), jk.per_image(jax.random.key(0), 2)
    noisy = FeatureSqueezing(squeezers=(GaussianNoise(), GaussianNoise()))
    assert noisy.random
    with pytest.raises(ValueError, match="expected a key"):
        noisy.score(model, images)
    first, second = (
        np.abs(probabilities(model(images)) - probabilities(model(GaussianNoise()(images, jk.fold(keys, i))))).sum(
            axis=1
        )
        for i in range(2)
    )
    np.testing.assert_allclose(noisy.score(model, images, keys), np.maximum(first, second), atol=1e-5)


def test_new_numbers_do_not_compile_anew(model, photos):
    images = jnp.asarray(photos[:2])
    with count_compilations() as compilations:
        run = jax.jit(lambda detector, target, images: detector.detects(target, images))
        for bits, threshold in ((3.0, 0.5), (4.0, 0.7)):
            run(FeatureSqueezing(squeezers=(BitDepth(bits=bits),), threshold=threshold), model, images)
    assert compilations.count("<lambda>") == 1


def test_around_a_target_the_logits_stay_and_the_score_stands_beside(model, photos, detector):
    images = jnp.asarray(photos[:3])
    logits, score = detector.around(model)(images)
    np.testing.assert_array_equal(logits, model(images))
    np.testing.assert_allclose(score, detector.score(model, images), atol=1e-6)


def test_a_random_target_gets_its_keys(photos, detector):
    def noisy(images, key):
        return jax.vmap(lambda k: jax.random.normal(k, (4,)))(key) + 0 * images.mean(axis=(1, 2, 3))[:, None]

    target = classifier(noisy, random=True)
    around = detector.around(target)
    assert around.random
    keys = jk.per_image(jax.random.key(0), 2)
    np.testing.assert_array_equal(around(photos[:2], keys).logits, target(photos[:2], keys))
    with pytest.raises(ValueError, match="expected a key"):
        around(photos[:2])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"squeezers": ()}, r"squeezers must be a tuple of purifiers, got \(\)"),
        ({"squeezers": (BitDepth(),), "threshold": 2.5}, "threshold must be a distance of probabilities, from 0 to 2"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(fields, message):
    with pytest.raises(ValueError, match=message):
        FeatureSqueezing(**fields)


def test_a_false_positive_rate_out_of_its_domain_is_refused(model, photos, detector):
    with pytest.raises(ValueError, match="false_positive_rate must be at least 0 and below 1, got 1"):
        detector.calibrated(model, photos, false_positive_rate=1.0)
