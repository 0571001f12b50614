"""Arguments of attacks, refused in one sentence where they cannot be meant."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify.attacks.norms import ball
from jaxpurify.checks import kind
from jaxpurify.pytrees import Scalar, concrete

SIZES = ("epsilon", "step_size")  # in units of the images: a number, or one for each image


def check_is_attack(attack: Any, *, name: str = "attack") -> None:
    """Refuse what is not an attack, such as the class of one.

    Args:
        attack: what the caller gave.
        name: what the message calls it.

    Raises:
        TypeError: if it is not an attack.
    """
    from jaxpurify.attacks.attack import Attack  # which imports this file

    if not isinstance(attack, Attack):
        raise TypeError(f"{name} must be an attack such as jaxpurify.attacks.PGD(), got {kind(attack)}")


def check_counts(attack: Any, *names: str, least: int = 1) -> None:
    """Refuse counts that are too small or no integers.

    Args:
        attack: the attack.
        names: its fields.
        least: the smallest that can be meant.

    Raises:
        ValueError: if a count is below it or no integer.
    """
    for name in names:
        value = getattr(attack, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_candidates(candidates: Any, *, least: int) -> None:
    """Check a number of candidate classes.

    Args:
        candidates: their number, or None for all.
        least: the smallest that makes sense.

    Raises:
        ValueError: if it is no integer, or too small.
    """
    if candidates is not None and (not isinstance(candidates, int) or candidates < least):
        raise ValueError(f"candidates must be an integer of at least {least}, or None for all, got {candidates}")


def check_size(name: str, value: Any) -> None:
    """Refuse a number below 0 or not finite, where it can be looked at.

    Args:
        name: what messages call it.
        value: the number, or None.

    Raises:
        ValueError: if it cannot be meant.
    """
    if value is not None and concrete(value) and np.ndim(value) == 0 and not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value}")


def check_share(name: str, value: Any) -> None:
    """Refuse a share outside [0, 1], where it can be looked at.

    Args:
        name: what messages call it.
        value: the share.

    Raises:
        ValueError: if it is below 0 or above 1.
    """
    if concrete(value) and np.ndim(value) == 0 and not 0 <= value <= 1:
        raise ValueError(f"{name} must be a share from 0 to 1, got {value}")


def check_classes(attack: Any, classes: int, *, targeted: bool) -> None:
    """Refuse target classes and losses that a number of classes does not allow.

    Args:
        attack: the attack.
        classes: the target's number of classes.
        targeted: whether targets are given.

    Raises:
        ValueError: if there are too few classes, or targets for an attack that chooses its own.
    """
    aimed = attack.target_classes or 0
    if targeted and aimed:
        raise ValueError(
            f"{type(attack).__name__} chooses {aimed} target classes itself, got targets: leave them out, or set "
            "target_classes=0"
        )
    if aimed > classes - 1:
        raise ValueError(f"target_classes must be at most {classes - 1} for {classes} classes, got {aimed}")
    if attack.loss == "dlr" and classes < (4 if targeted or aimed else 3):
        raise ValueError(f"the dlr loss needs more classes than {classes}: use the margin loss")


def check_targets(labels: Any, targets: Any) -> None:
    """Refuse targets that are the labels themselves, where they can be looked at.

    Args:
        labels: shape ``(batch,)``.
        targets: shape ``(batch,)``, or None.

    Raises:
        ValueError: naming the first image whose target is its label.
    """
    if targets is None or not concrete((labels, targets)):
        return
    same = np.flatnonzero(np.asarray(labels) == np.asarray(targets))
    if len(same):
        raise ValueError(
            f"targets must be other classes than the labels, got {int(np.asarray(targets)[same[0]])} as both for "
            f"image {same[0]}"
        )


def check_numbers(attack: Any, count: int, shape: tuple[int, ...]) -> None:
    """Refuse numbers of an attack that do not fit the images, and several where one is meant.

    Args:
        attack: the attack.
        count: number of images.
        shape: ``(height, width, channel)`` of the images.

    Raises:
        ValueError: naming the number.
    """
    for field in dataclasses.fields(attack):
        value = getattr(attack, field.name)
        if field.metadata.get("static") or value is None:
            continue
        given = np.shape(value) if field.name in SIZES or field.type in (Scalar, Scalar | None) else ()
        if field.name in SIZES and given not in ((), (count,)):
            raise ValueError(f"{field.name} must be a number, or one for each of the {count} images, got shape {given}")
        if field.name not in SIZES and given:
            raise ValueError(
                f"{field.name} of {type(attack).__name__} must be a number, got shape {given}: several values? use "
                "jaxpurify.sweep with jax.vmap"
            )
    if attack.epsilon is not None:
        check_within_images("epsilon", attack.norm, attack.epsilon, shape)
    if attack.step_size is not None and attack.steps_in_images:
        check_within_images("step_size", attack.norm, attack.step_size, shape)


def check_epsilon(norm: str, epsilon: Any) -> None:
    """Check the size of a ball, or one size for each image, where it can be looked at.

    Args:
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.
        epsilon: the size, in units of the [0, 1] range of images, or a row of sizes.

    Raises:
        TypeError: if it is not a number or numbers.
        ValueError: if one is negative, not finite, or can only be meant in 0–255 units, or if there are more axes.
    """
    ball(norm)
    if isinstance(epsilon, jax.core.Tracer) or type(epsilon) is object:  # JAX puts objects in the place of numbers
        return
    check_sizes("epsilon", epsilon)
    largest = float(np.max(np.asarray(epsilon), initial=0))
    if norm == "linf" and largest > 1:
        raise ValueError(f"epsilon must be at most 1 in the linf norm, got {largest:g}: in 0–255 units? divide by 255")


def check_sizes(name: str, sizes: Any, *, least: float = 0, above: bool = False) -> None:
    """Refuse what is neither a finite number nor one for each image.

    Args:
        name: what messages call it.
        sizes: the number, or a row of numbers.
        least: the smallest that can be meant.
        above: whether they must be above that.

    Raises:
        TypeError: if it is not a number or numbers.
        ValueError: if one is too small or not finite, or if there are more axes.
    """
    expected = f"{name} must be a number such as 8/255, or one for each image"
    try:
        values = np.asarray(sizes)
    except (TypeError, ValueError):
        raise TypeError(f"{expected}, got {type(sizes).__name__}") from None
    if values.dtype == bool or not (
        np.issubdtype(values.dtype, np.integer) or jnp.issubdtype(values.dtype, jnp.floating)
    ):
        shown = repr(sizes) if sizes is None or isinstance(sizes, str | bool) else f"{type(sizes).__name__}"
        raise TypeError(f"{expected}, got {shown}")
    if values.ndim > 1 or values.size == 0:
        raise ValueError(f"{expected}, got shape {values.shape}")
    values = values.astype(np.float64).reshape(-1)
    wrong = values[~(np.isfinite(values) & ((values > least) if above else (values >= least)))]
    if len(wrong):
        bound = "above" if above else "of at least"
        raise ValueError(f"{name} must be a finite number {bound} {least:g}, got {wrong[0]:g}")


def check_within_images(name: str, norm: str, sizes: Any, shape: tuple[int, ...]) -> None:
    """Refuse sizes above the distance of any two images, where they can be looked at.

    Args:
        name: what messages call them.
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.
        sizes: a number or numbers, or a tracer.
        shape: ``(height, width, channel)`` of the images.

    Raises:
        ValueError: naming the largest distance.
    """
    if isinstance(sizes, jax.core.Tracer):
        return
    values = math.prod(shape)
    farthest = {"linf": 1.0, "l2": math.sqrt(values), "l1": float(values)}[norm]
    if float(np.max(np.asarray(sizes))) > farthest * (1 + 1e-6):
        raise ValueError(
            f"{name} must be at most {farthest:g}, the largest distance in the {norm} norm between two images of "
            f"{' × '.join(map(str, shape))}, got {float(np.max(np.asarray(sizes))):g}: in 0–255 units? divide by 255"
        )
