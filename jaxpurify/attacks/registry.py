"""Attacks by the names that the command and reports use."""

from typing import Any

from jaxpurify import specification
from jaxpurify.attacks.adaptive import Adaptive
from jaxpurify.attacks.apgd import APGD
from jaxpurify.attacks.autoattack import AutoAttack
from jaxpurify.attacks.boundary import BoundaryProjection
from jaxpurify.attacks.carlini_wagner import CarliniWagner
from jaxpurify.attacks.ddn import DDN
from jaxpurify.attacks.deepfool import DeepFool
from jaxpurify.attacks.fab import FAB
from jaxpurify.attacks.gradient import FGSM, IFGSM, MIFGSM, PGD, RFGSM, AdamPGD
from jaxpurify.attacks.hop_skip_jump import HopSkipJump
from jaxpurify.attacks.noise import RandomNoise
from jaxpurify.attacks.score_based import NES, SPSA
from jaxpurify.attacks.square import Square
from jaxpurify.attacks.transferable import DIFGSM, MDIFGSM, NIFGSM, TIFGSM, VMIFGSM

ATTACKS: dict[str, type] = {
    "fgsm": FGSM,
    "r-fgsm": RFGSM,
    "i-fgsm": IFGSM,
    "mi-fgsm": MIFGSM,
    "ni-fgsm": NIFGSM,
    "di-fgsm": DIFGSM,
    "m-di-fgsm": MDIFGSM,
    "ti-fgsm": TIFGSM,
    "vmi-fgsm": VMIFGSM,
    "pgd": PGD,
    "adam-pgd": AdamPGD,
    "apgd": APGD,
    "deepfool": DeepFool,
    "carlini-wagner": CarliniWagner,
    "ddn": DDN,
    "fab": FAB,
    "boundary-projection": BoundaryProjection,
    "square": Square,
    "nes": NES,
    "spsa": SPSA,
    "hop-skip-jump": HopSkipJump,
    "autoattack": AutoAttack,
    "adaptive": Adaptive,
    "noise": RandomNoise,
}


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
