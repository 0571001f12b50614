"""Arguments of attacks, refused in one sentence where they cannot be meant."""

from typing import Any

import numpy as np

from jaxpurify.pytrees import concrete


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
