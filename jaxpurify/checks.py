"""What callers give, named in one way, and counts, checked in one place."""

from typing import Any

import jax
import numpy as np


def check_count(value: Any, *, name: str, least: int = 1) -> int:
    """Return a count as a Python integer; NumPy's integers are counts too, truth values are not.

    Args:
        value: what the caller gave.
        name: the argument's name, for the message.
        least: the smallest that can be meant.

    Returns:
        The count.

    Raises:
        ValueError: if it is not an integer, or below ``least``.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)


def check_batch_size(value: Any) -> int:
    """Return the number of images in one program as a Python integer.

    Args:
        value: what the caller gave as ``batch_size``.

    Returns:
        The number.

    Raises:
        ValueError: if it is not an integer of at least 1.
    """
    return check_count(value, name="batch_size")


def kind(value: Any) -> str:
    """Say in a few words what an object is.

    Args:
        value: any object.

    Returns:
        Its type's name, with its library's where that is neither Python's nor NumPy's nor JAX's.
    """
    if isinstance(value, jax.Array):
        return "jax.Array"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    library = type(value).__module__.split(".")[0]
    plain = library in ("builtins", "numpy", "jax", "jaxlib", "jaxpurify", "__main__")
    return type(value).__name__ if plain else f"{library}.{type(value).__name__}"


def is_from(model: Any, library: str, name: str) -> bool:
    """Say whether an object is of a class of another library, without importing that.

    Args:
        model: any object.
        library: where the class is defined, or how that begins, such as ``"flax.nnx"``.
        name: the class's name.

    Returns:
        True for objects of the class and of those derived from it.
    """
    return any(f"{c.__module__}.".startswith(f"{library}.") and c.__name__ == name for c in type(model).__mro__)
