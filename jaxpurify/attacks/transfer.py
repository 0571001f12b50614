"""Transfer attacks: images made against surrogate models, one or several at once, and shown to a victim."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import keys as _keys
from jaxpurify.attacks import losses
from jaxpurify.attacks.attack import Attack
from jaxpurify.attacks.batches import capped, in_batches
from jaxpurify.attacks.cascade import Cascade
from jaxpurify.attacks.checks import check_is_attack
from jaxpurify.attacks.drivers import run
from jaxpurify.attacks.result import FOOLED, NOT_FINITE, SURVIVED, AttackResult, Problem
from jaxpurify.attacks.scoring import DRAWS, judged
from jaxpurify.attacks.tracing import check_same_count
from jaxpurify.checks import check_batch_size
from jaxpurify.datasets.classes import check_same_classes
from jaxpurify.independence import check_independence
from jaxpurify.models import as_target, attribute
from jaxpurify.parallel import Placement, placement
from jaxpurify.precision import widened
from jaxpurify.pytrees import pytree_dataclass, static

AVERAGES = ("logits", "probabilities", "losses")


@pytree_dataclass
class SurrogateEnsemble:
    """Several models attacked as one target.

    Args:
        models: targets with logits of the same classes. A random one, number i, receives the keys with i folded in.
        average: what is averaged: ``"logits"``; ``"probabilities"`` (the outputs are the logarithms of the averages,
            which are logits too); or ``"losses"``. No outputs have the mean of the models' losses for their loss, so
            that the last returns a tuple of all logits, and is attacked by ``ensemble.adapted(attack)``.

    Raises:
        ValueError: if there is no model, or the average is unknown.

    Source: Dong et al. 2018 (arXiv 1710.06081), section 3.3, which compares the three and finds logits the best; Liu et
    al. 2017 (arXiv 1611.02770) average probabilities.
    """

    models: tuple[Any, ...]
    average: str = static("logits")

    is_target = True

    def __init__(self, models: Sequence[Any], average: str = "logits"):
        if not isinstance(models, list | tuple) or not models:
            raise ValueError(f"models must be a list or tuple of at least one model, got {type(models).__name__}")
        if average not in AVERAGES:
            raise ValueError(f"average must be one of {', '.join(AVERAGES)}, got {average!r}")
        object.__setattr__(self, "models", tuple(as_target(model) for model in models))
        for number, model in enumerate(self.models[1:], 1):
            check_same_classes(self.models[0], model, names=("model 0", f"model {number} of the surrogates"))
        object.__setattr__(self, "average", average)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, where a model has some."""
        known = (getattr(model, "class_names", None) for model in self.models)
        return next((names for names in known if names is not None), None)

    @property
    def random(self) -> bool:
        """Whether a model needs keys."""
        return any(attribute(model, "random") for model in self.models)

    @property
    def couples_images(self) -> bool:
        """Whether a model lets the images of a batch influence one another."""
        return any(attribute(model, "couples_images") for model in self.models)

    @property
    def calls_back(self) -> bool:
        """Whether computing a model calls back to the host."""
        return any(attribute(model, "calls_back") for model in self.models)

    def adapted(self, attack: Attack, *, targeted: bool = False) -> Attack:
        """Return an attack as this ensemble takes it.

        Args:
            attack: the attack.
            targeted: whether it will be given targets.

        Returns:
            The attack itself; where losses are averaged, the same attack with the mean of its loss, for which an image
            succeeds where it fools every model.
        """
        if self.average != "losses":
            return attack
        if isinstance(attack, Cascade):
            raise ValueError(f"{type(attack).__name__} judges logits, got average='losses': average logits instead")
        every: Any = FoolsEvery(attack.success, targeted)
        return dataclasses.replace(attack, loss=losses.MeanLoss(attack.loss), success=every)  # type: ignore[type-var]

    def __call__(self, images, key=None):
        key = None if key is None else _keys.per_image(key, images.shape[0])
        logits = tuple(
            widened(model(images, _keys.fold(key, number) if attribute(model, "random") else None))
            for number, model in enumerate(self.models)
        )
        if len(counts := {member.shape[1:] for member in logits}) > 1:
            raise ValueError(f"surrogates must have the same classes, got logits of shapes {sorted(counts)} an image")
        if self.average == "losses":
            return logits
        if self.average == "logits":
            return sum(logits) / len(logits)
        # In logarithms throughout: probabilities that vanish in float32 would have no gradient.
        chances = jnp.stack([jax.nn.log_softmax(member) for member in logits])
        return jax.nn.logsumexp(chances, axis=0) - np.log(len(logits))


class FoolsEvery(NamedTuple):
    """A judgement of the logits of several models: whether each of them is fooled.

    Attributes:
        success: how one is judged: the caller's ``f(outputs, reference)``, or None for classification.
        targeted: whether the reference is the class to reach.
    """

    success: Any
    targeted: bool

    def __call__(self, outputs, reference):
        labels, targets = reference, reference if self.targeted else None
        each = [losses.succeeded(self.success, member, labels, targets) for member in outputs]
        return jnp.stack(each).all(axis=0)


def transfer(
    attack: Any,
    surrogates: Any,
    victim: Any,
    images: Any,
    labels: Any,
    key: Any = None,
    *,
    targets: Any = None,
    average: str = "logits",
    batch_size: Any = 128,
    devices: Any = None,
    progress: Any = None,
) -> AttackResult:
    """Attack surrogate models with the full budget, and say which of the images fool the victim.

    Args:
        attack: the attack; one that spends its budget, not one that looks for the nearest image.
        surrogates: a model, a ``SurrogateEnsemble``, or a list or tuple of models, which becomes one.
        victim: the model that the images are shown to; nothing else is asked of it.
        images: clean images, float32, shape ``(images, height, width, channel)``, in [0, 1].
        labels: integers of shape ``(images,)``.
        key: one typed key, or one an image.
        targets: classes to reach, shape ``(images,)``, or None.
        average: what an ensemble made of a list averages: ``"logits"``, ``"probabilities"`` or ``"losses"``.
        batch_size: images in each device's program.
        devices: None, ``"all"``, a number, or devices.
        progress: called after each compiled call, or None.

    Returns:
        The result of the search on the surrogates, but for ``success``, ``margin`` and ``status``, which are the
        victim's. Of a random victim they are the majority and the mean of 20 fresh draws. ``forwards`` and
        ``backwards`` count what the surrogates computed.

    Raises:
        TypeError: if the attack is not one.
        ValueError: on bad arguments.

    Source: Papernot et al. 2016 (arXiv 1605.07277).
    """
    batch_size = check_batch_size(batch_size)
    check_is_attack(attack)
    if attack.minimal_norm:
        raise ValueError(
            f"{type(attack).__name__} stops at the surrogates' decision boundary, which makes any victim look robust: "
            "transfer needs an attack that spends its whole epsilon, such as MIFGSM"
        )
    if isinstance(surrogates, SurrogateEnsemble) and average not in ("logits", surrogates.average):
        raise ValueError(f"the surrogates average {surrogates.average} already, got average={average!r}: leave it out")
    several = isinstance(surrogates, list | tuple)
    source = SurrogateEnsemble(surrogates, average) if several else as_target(surrogates)
    victim, where = as_target(victim), placement(devices)
    check_same_classes(source, victim, names=("the surrogates", "the victim"))
    problem = _without_gradients(attack).prepare(victim, images, labels, key, targets)
    if attack.success is None:
        check_same_count(source, victim, problem.images, names=("the surrogates", "the victim"))
    check_independence(victim, problem.images, problem.keys, name="the victim")
    batch_size = capped(batch_size, len(problem.images), where.count)
    adapted = source.adapted(attack, targeted=targets is not None) if isinstance(source, SurrogateEnsemble) else attack
    found = run(
        adapted, source, images, labels, key, targets, batch_size=batch_size, devices=devices, progress=progress
    )
    success, sound, margin = _shown(attack, victim, problem._replace(images=found.images), batch_size, where)
    status: Any = np.where(success, FOOLED, np.where(sound, SURVIVED, NOT_FINITE)).astype(np.int32)
    return found._replace(success=success, margin=margin, status=status)


def _without_gradients(attack: Attack) -> Attack:
    """Return the attack as what judges images: of a victim nothing but answers is asked."""
    judge = copy.copy(attack)
    vars(judge)["uses_gradient"] = False
    return judge


def _shown(attack: Attack, victim: Any, problem: Problem, batch_size: int, where: Placement) -> tuple[Any, Any, Any]:
    """Return whether images fool a victim in most draws, whether it says anything, and their mean margins."""
    success, sound, margin = [], [], []
    margins, shown = where.compile(_margins, per_image=(False, True, True)), where.everywhere(victim)
    random = attribute(victim, "random")
    for rows, part in in_batches(problem, batch_size * where.count):
        draws = judged(attack, victim, part, part.images, where=where)
        success.append(draws.fooled.mean(axis=0)[: len(rows)] > 0.5)
        sound.append((draws.fooled | draws.stood).all(axis=0)[: len(rows)])
        placed = where.put(part)
        keys = [where.put(_keys.stream(part.keys, "score", draw=draw)) for draw in range(DRAWS)] if random else [None]
        margin.append(np.mean([np.asarray(margins(shown, placed, own)) for own in keys], axis=0)[: len(rows)])
    return np.concatenate(success), np.concatenate(sound), np.concatenate(margin)


def _margins(victim, problem, keys):
    return losses.label_margin(victim(problem.images, keys), problem.labels)
