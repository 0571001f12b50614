"""Purifiers by the names that the command and reports use."""

from typing import Any

from jaxpurify import specification
from jaxpurify.models import Sequential
from jaxpurify.purifiers.bit_depth import BitDepth
from jaxpurify.purifiers.identity import Identity
from jaxpurify.purifiers.smoothing import GaussianSmoothing

PURIFIERS: dict[str, type] = {"none": Identity, "gaussian-smoothing": GaussianSmoothing, "bit-depth": BitDepth}


def names() -> dict[str, type]:
    """Return the registered purifiers.

    Returns:
        Classes by name.
    """
    return dict(PURIFIERS)


def make(text: str) -> Any:
    """Construct a purifier from a text such as ``gaussian-smoothing:sigma=1,iterations=10``.

    Args:
        text: the name, and after a colon its fields; several joined by ``+`` purify in turn.

    Returns:
        The purifier.

    Raises:
        ValueError: if a name or value does not fit.
    """
    stages = [specification.make(part, PURIFIERS, kind="purifier") for part in text.split("+")]
    return stages[0] if len(stages) == 1 else Sequential(*stages)
