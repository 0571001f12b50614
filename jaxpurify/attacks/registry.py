"""Attacks by the names that the command and reports use."""

from typing import Any

from jaxpurify import specification
from jaxpurify.attacks.gradient import FGSM, IFGSM, MIFGSM, PGD
from jaxpurify.attacks.noise import RandomNoise

ATTACKS: dict[str, type] = {"fgsm": FGSM, "i-fgsm": IFGSM, "mi-fgsm": MIFGSM, "pgd": PGD, "noise": RandomNoise}


def names() -> dict[str, type]:
    """Return the registered attacks.

    Returns:
        Classes by name.
    """
    return dict(ATTACKS)


def make(text: str) -> Any:
    """Construct an attack from a text such as ``pgd:steps=40,epsilon=8/255``.

    Args:
        text: the name, and after a colon its fields.

    Returns:
        The attack.

    Raises:
        ValueError: if a name or value does not fit.
    """
    return specification.make(text, ATTACKS, kind="attack")
