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
