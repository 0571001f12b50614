"""How a detector fares, on a classifier whose weakness is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpurify.attacks import PGD
from jaxpurify.detectors import Detector, FeatureSqueezing
from jaxpurify.evaluation.detection import detection, evasion
from jaxpurify.models import Defended, classifier
from jaxpurify.purifiers import BitDepth, GaussianNoise, GaussianSmoothing
from jaxpurify.pytrees import pytree_dataclass

CHECKS = (-1.0) ** (np.arange(8)[:, None] + np.arange(8)[None, :])


def fragile(weights, images):
    """Tell bright from dark images, and be far more sensitive to a chequered pattern that they do not have."""
    pattern = jnp.asarray(CHECKS[None, :, :, None], images.dtype)
    bright = weights[0] * (images.mean(axis=(1, 2, 3)) - 0.5) + weights[1] * (images * pattern).mean(axis=(1, 2, 3))
    return jnp.stack([-bright, bright], axis=1)


@pytest.fixture(scope="module")
def measured():
    random = np.random.default_rng(0)
    labels = np.arange(200) % 2
    brightness = 0.5 + random.uniform(0.01, 0.08, 200) * np.where(labels, 1, -1)
    images = np.float32(brightness[:, None, None, None] + random.normal(0, 0.02, (200, 8, 8, 3)))
    model = classifier(fragile, jnp.array([30.0, 60.0]))
    detector = FeatureSqueezing(squeezers=(BitDepth(bits=5.0), GaussianSmoothing())).calibrated(model, images[:160])
    attack = PGD(epsilon=0.1, steps=100, step_size=0.005, update=optax.adam)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return detector, detection(
            detector, model, images[160:], labels[160:], jax.random.key(0), attack=attack, batch_size=16
        )


def test_who_does_not_know_the_detector_is_found_out(measured):
    detector, found = measured
    assert found.threshold == detector.threshold
    assert found.false_positives.fraction <= 0.15
    assert found.blind_success.fraction == 1
    assert found.blind.fraction == 1


def test_who_knows_the_detector_evades_it(measured):
    assert measured[1].evaded.fraction > 0.9


@pytree_dataclass
class Bright(Detector):
    """Suspects bright images; has no squeezers."""

    threshold: float | None = 0.75

    def score(self, target, images, key=None):
        return images.mean(axis=(1, 2, 3))


def test_any_detector_and_random_models_are_measured():
    images = np.float32(np.linspace(0.1, 0.9, 6)[:, None, None, None] * np.ones((1, 8, 8, 3)))
    labels, attack = np.arange(6) % 2, PGD(epsilon=0.01, steps=1)
    model = classifier(fragile, jnp.array([30.0, 60.0]))
    noisy = Defended(model, GaussianNoise(sigma=0.01))
    for target in (model, noisy):
        found = detection(Bright(), target, images, labels, jax.random.key(0), attack=attack, batch_size=4)
        assert found.false_positives.fraction == pytest.approx(1 / 6)
    squeezing = FeatureSqueezing(squeezers=(GaussianNoise(),)).calibrated(model, images, jax.random.key(1))
    found = detection(squeezing, model, images, labels, jax.random.key(0), attack=attack, batch_size=4)
    assert 0 <= found.evaded.fraction <= 1


def test_without_a_threshold_nothing_is_measured(measured):
    bare = FeatureSqueezing(squeezers=(GaussianSmoothing(),))
    with pytest.raises(ValueError, match="FeatureSqueezing has no threshold yet: calibrate it"):
        detection(bare, lambda x: x, np.zeros((1, 8, 8, 3), np.float32), np.zeros(1, int), None, attack=PGD())


def test_evasion_wants_both_another_class_and_no_alarm():
    from jaxpurify.detectors import Watched

    outputs = Watched(jnp.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), jnp.array([0.1, 0.9, 0.1]))
    loss, success = evasion(0.5)
    labels = jnp.array([0, 0, 0])
    assert success(outputs, labels).tolist() == [True, False, False]
    assert loss(outputs, labels).argmax() == 0
