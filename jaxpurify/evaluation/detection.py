"""How a detector fares: on legitimate images, on attacked ones, and on images of an attacker who knows it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import images as _images
from jaxpurify import keys as _keys
from jaxpurify.attacks import losses, run
from jaxpurify.attacks.checks import check_is_attack
from jaxpurify.checks import check_batch_size, kind
from jaxpurify.metrics.accuracy import Interval, wilson
from jaxpurify.models import as_target, attribute

CONFIDENCE = 0.5  # of logits: beyond it, the loss turns from the class to the score
WEIGHT = 5.0  # of the score, which is at most 2


class Detection(NamedTuple):
    """What a detector lets pass.

    Attributes:
        threshold: score above which images are called adversarial.
        false_positives: legitimate images that are called adversarial.
        blind: of the images that an attack on the classifier alone gets misclassified, those that are detected.
        blind_success: images that this attack gets misclassified, detected or not.
        evaded: images that an attack on classifier and detector together gets misclassified and past the detector.
    """

    threshold: float
    false_positives: Interval
    blind: Interval
    blind_success: Interval
    evaded: Interval


def evasion(threshold: Any) -> tuple[Callable, Callable]:
    """Return the loss and the success of an attack that wants another class and no alarm.

    Args:
        threshold: the detector's.

    Returns:
        ``loss(outputs, labels)``, which is raised, and ``success(outputs, labels)``, for targets such as
        ``detector.around(classifier)`` returns.

    Source: our choice, after Carlini and Wagner 2017 (arXiv 1705.07263), who add the detector to the loss: the margin
    up to half a logit, less five times what the score exceeds half of the threshold by.
    """
    limit = float(threshold)

    def loss(outputs, labels):
        margin = losses.margin(outputs.logits, labels)
        return jnp.minimum(margin, CONFIDENCE) - WEIGHT * jnp.maximum(outputs.score - limit / 2, 0)

    def success(outputs, labels):
        return losses.misclassified(outputs.logits, labels) & (outputs.score <= limit)

    return loss, success


def detection(
    detector: Any,
    classifier: Any,
    images: Any,
    labels: Any,
    key: Any,
    *,
    attack: Any,
    batch_size: Any = 64,
    progress: Callable[[], None] | None = None,
) -> Detection:
    """Measure what a detector finds, and what an attacker who knows it gets past it.

    Args:
        detector: a detector with a threshold, calibrated on other images.
        classifier: images to logits.
        images: legitimate images, shape ``(images, height, width, channel)``.
        labels: their classes, shape ``(images,)``.
        key: one typed key. What is random is judged in one draw that no search has seen.
        attack: a gradient attack; it is run on the classifier alone, and with the loss of ``evasion`` on both.
        batch_size: images in one program at most.
        progress: called after each compiled call of an attack.

    Returns:
        Shares with their 95 % intervals.

    Raises:
        TypeError: if the detector or the attack is not one.
        ValueError: if the detector has no threshold, or on bad arguments.

    Source: our choice; Xu, Evans and Qi 2018 (arXiv 1704.01155) report the first three.
    """
    batch_size = check_batch_size(batch_size)
    if not attribute(detector, "is_detector") or isinstance(detector, type):
        raise TypeError(f"detector must be a detector such as FeatureSqueezing(), got {kind(detector)}")
    check_is_attack(attack)
    if detector.threshold is None:
        raise ValueError(f"{type(detector).__name__} has no threshold yet: calibrate it on training images first")
    classifier = as_target(classifier)
    images, labels = _images.as_array(images), _images.as_array(labels, name="labels")
    _images.check_images(images)
    _images.check_labels(labels, len(images))
    images, labels = np.asarray(images), np.asarray(labels).astype(np.int32)
    random = attribute(classifier, "random") or attribute(detector, "random")
    own = _keys.stream(_keys.per_image(key, len(images)), "score") if random else None

    def judged(attacked: Any) -> tuple[np.ndarray, np.ndarray]:
        wrong, found = [], []
        for first in range(0, len(images), batch_size):
            rows = np.arange(first, first + batch_size) % len(images)  # filled up, so that one program serves all
            said, alarm = _judge(detector, classifier, jnp.asarray(attacked[rows]), own if own is None else own[rows])
            kept = min(batch_size, len(images) - first)
            wrong.append(np.asarray(said)[:kept] != labels[rows[:kept]])
            found.append(np.asarray(alarm)[:kept])
        return np.concatenate(wrong), np.concatenate(found)

    search = functools.partial(run, batch_size=batch_size, progress=progress)
    blind = search(attack, classifier, images, labels, key).images
    loss, success = evasion(detector.threshold)
    adaptive = dataclasses.replace(attack, loss=loss, success=success)  # type: ignore[type-var]
    evading = search(adaptive, detector.differentiable().around(classifier), images, labels, key).images
    _, alarms = judged(images)
    fooled, found = judged(blind)
    passed_wrong, passed_found = judged(evading)
    return Detection(
        threshold=float(detector.threshold),
        false_positives=_share(alarms),
        blind=_share(found[fooled]),
        blind_success=_share(fooled),
        evaded=_share(passed_wrong & ~passed_found),
    )


def _share(flags: np.ndarray) -> Interval:
    return wilson(float(flags.mean()), len(flags)) if len(flags) else Interval(float("nan"), 0.0, 1.0)


@jax.jit
def _judge(detector, classifier, images, keys):
    said = classifier(images, keys if attribute(classifier, "random") else None)
    return said.argmax(axis=1), detector.detects(classifier, images, keys)
