"""The arguments of an evaluation, checked before anything is computed or written."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxpurify import images as _images
from jaxpurify import keys as _keys
from jaxpurify.attacks.attack import Attack, advance
from jaxpurify.datasets.classes import as_names, matched_labels
from jaxpurify.evaluation.threat_models import ThreatModel, builtin
from jaxpurify.models import as_purifier
from jaxpurify.purifiers.identity import Identity


class Data(NamedTuple):
    """Images and labels, and what is said about them.

    Attributes:
        images: float32, shape ``(images, height, width, channel)``, in [0, 1].
        labels: integers, shape ``(images,)``.
        name: of the data set.
        demonstration: whether figures on it are no evidence.
        class_names: names of the classes, or None.
    """

    images: np.ndarray
    labels: np.ndarray
    name: str
    demonstration: bool
    class_names: tuple[str, ...] | None


def read_data(data: Any) -> Data:
    """Read and check the data.

    Args:
        data: an object with ``images`` and ``labels``, or a pair of arrays.

    Returns:
        Its parts.

    Raises:
        TypeError: if it is neither, or a dtype is wrong.
        ValueError: if shapes or values are wrong.
    """
    pair = isinstance(data, tuple | list) and len(data) == 2 and not hasattr(data, "images")
    images, labels = data if pair else (getattr(data, "images", None), getattr(data, "labels", None))
    if images is None or labels is None:
        raise TypeError(f"data must have images and labels, or be a pair of them, got {type(data).__name__}")
    images = np.asarray(_images.as_array(images))
    labels = np.asarray(_images.as_array(labels, name="labels"))
    images = images.astype(np.float32) if images.dtype == np.float64 else images
    _images.check_images(images)
    _images.check_values(images)
    _images.check_labels(labels, len(images))
    names = getattr(data, "class_names", None)
    return Data(
        images,
        labels,
        str(getattr(data, "name", "arrays")),
        bool(getattr(data, "demonstration", False)),
        None if names is None else as_names(names, name="class_names of data"),
    )


def match_classes(data: Data, classifier: Any) -> Data:
    """Number the data's labels as the classifier numbers its classes.

    Args:
        data: what ``read_data`` returned.
        classifier: the classifier; it may have ``class_names``.

    Returns:
        The data, with the classifier's class names where it has some.

    Raises:
        ValueError: if both have names that cannot be matched.
    """
    known, called = getattr(classifier, "class_names", None), getattr(classifier, "name", "the classifier")
    known = None if known is None else as_names(known, name=f"class_names of {called}")
    labels, names = matched_labels(data.labels, data.class_names, known, data=data.name, classifier=called)
    return data._replace(labels=labels, class_names=names)


def name_purifiers(purifiers: Any) -> dict[str, Any]:
    """Give purifiers the names that tables use, the undefended classifier among them.

    Args:
        purifiers: a mapping of names to purifiers, or one purifier.

    Returns:
        Purifiers by name. Without an ``Identity`` among them, one is put first, as ``none``.

    Raises:
        TypeError: if one is no purifier, or a name no string.
        ValueError: if another purifier is called ``none``.
    """
    if callable(purifiers) and not isinstance(purifiers, Mapping):
        purifiers = {getattr(purifiers, "__name__", type(purifiers).__name__): purifiers}
    if not isinstance(purifiers, Mapping) or not purifiers:
        raise TypeError('purifiers must be a mapping of names to purifiers, such as {"gs": GaussianSmoothing()}')
    for name, purifier in purifiers.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"the name of a purifier must be a string, got {name!r}")
        if not callable(purifier) or isinstance(purifier, type):
            got = f"the class {purifier.__name__}" if isinstance(purifier, type) else type(purifier).__name__
            raise TypeError(f"purifier {name!r} must be a purifier such as GaussianSmoothing(), got {got}")
    named = {name: as_purifier(purifier) for name, purifier in purifiers.items()}
    if not isinstance(named.get("none", Identity()), Identity):
        raise ValueError('the name "none" is kept for the undefended classifier: give that purifier another')
    if any(isinstance(purifier, Identity) for purifier in named.values()):
        return named
    return {"none": Identity()} | named


def undefended(purifiers: dict[str, Any]) -> str:
    """Return the name of the undefended classifier.

    Args:
        purifiers: what ``name_purifiers`` returned.

    Returns:
        ``none``, or the name of the first ``Identity``.
    """
    return next(name for name, purifier in purifiers.items() if isinstance(purifier, Identity))


def read_threat_models(threat_models: Any, *, noise_draws: int) -> list[ThreatModel]:
    """Look up threat models.

    Args:
        threat_models: names and ``ThreatModel`` objects, or one of them.
        noise_draws: draws of ``noise``.

    Returns:
        Threat models in order.

    Raises:
        ValueError: if a name is unknown or occurs twice.
    """
    several = [threat_models] if isinstance(threat_models, str | ThreatModel) else threat_models
    if not isinstance(several, Iterable):
        raise TypeError(f"threat_models must be names or ThreatModel objects, got {type(threat_models).__name__}")
    found = [t if isinstance(t, ThreatModel) else builtin(t, noise_draws=noise_draws) for t in several]
    names = [threat.name for threat in found]
    if not names:
        raise ValueError('threat_models must hold at least one, such as "full", got none')
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"two threat models are called {name!r}, expected every name once: records are told apart by it"
            )
    return found


def read_sizes(epsilons: Any) -> tuple[float, ...]:
    """Check the further sizes of attacks; whether an attack can have them is checked by the attack.

    Args:
        epsilons: numbers in units of [0, 1].

    Returns:
        Each once, in order.

    Raises:
        TypeError: if they are no sequence of numbers.
    """
    sequence = isinstance(epsilons, Sequence | np.ndarray) and not isinstance(epsilons, str)
    if not sequence or not all(isinstance(size, int | float | np.number) for size in epsilons):
        raise TypeError(f"epsilons must be a sequence of numbers such as (2/255, 4/255), got {epsilons!r}")
    return tuple(dict.fromkeys(float(size) for size in epsilons))


def read_key(key: Any) -> jax.Array:
    """Check the key of an evaluation.

    Args:
        key: one typed key, or None for ``jax.random.key(0)``.

    Returns:
        One typed key.

    Raises:
        TypeError: if it is a raw key or none at all.
        ValueError: if it is an array of keys.
    """
    return jax.random.key(0) if key is None else _keys.check_single(key)


def for_images(attack: Attack, rows: np.ndarray) -> Attack:
    """Return an attack with the sizes of some images, where it has one for each.

    Args:
        attack: the attack.
        rows: which images, shape ``(batch,)``.

    Returns:
        The attack itself where its sizes are numbers.
    """
    sizes: dict[str, Any] = {name: getattr(attack, name, None) for name in ("epsilon", "step_size")}
    own = {name: np.asarray(value)[rows] for name, value in sizes.items() if np.ndim(value)}
    return dataclasses.replace(attack, **own) if own else attack  # type: ignore[type-var]


def check_sizes(attacks: dict[str, Attack], count: int, epsilons: tuple[float, ...]) -> None:
    """Check that an attack with several sizes has one for each image, and no further sizes.

    Args:
        attacks: attacks by name.
        count: number of images.
        epsilons: the further sizes asked for.

    Raises:
        ValueError: naming the attack.
    """
    for name, attack in attacks.items():
        shape = np.shape(attack.epsilon)
        if shape not in ((), (count,)):
            raise ValueError(
                f"epsilon of attack {name!r} must be a number, or one for each of the {count} images, got shape {shape}"
            )
        if shape and epsilons:
            raise ValueError(
                f"epsilons must be left out where an attack has one size for each image, as {name!r} has: evaluate it "
                "alone"
            )


def check_attack(attack: Attack, target: Any, images: np.ndarray, labels: np.ndarray, key: Any) -> None:
    """Run through an attack's first step without computing it, so that what cannot work is met before it begins.

    Args:
        attack: the attack.
        target: what it attacks.
        images: a few images.
        labels: their labels.
        key: one typed key.

    Raises:
        TypeError: on wrong types.
        ValueError: on wrong arguments.
    """
    attack = for_images(attack, np.arange(len(images)))
    problem = attack.prepare(target, images, labels.astype(np.int32), key, None)
    if any(callable(value) for value in vars(attack).values()):
        attack, step = attack.canonical(images.dtype), np.uint32(0)
        jax.eval_shape(advance, attack, target, problem, attack.blank(problem), step, step)
