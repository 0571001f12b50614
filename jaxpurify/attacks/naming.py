"""Names of attacks, as tables, records and tallies use them."""

from collections.abc import Sequence
from typing import Any

from jaxpurify.attacks.attack import Attack


def named(attacks: Sequence[Any]) -> dict[str, Any]:
    """Give attacks distinct names.

    Args:
        attacks: the attacks.

    Returns:
        Attacks by name, such as ``PGD-40``; a second one of the same name is ``PGD-40 (2)``.
    """
    found: dict[str, Any] = {}
    for attack in attacks:
        # What is no attack is named too: who names attacks refuses it by that name.
        base = attack.name if isinstance(attack, Attack) else type(attack).__name__
        name, number = base, 2
        while name in found:
            name, number = f"{base} ({number})", number + 1
        found[name] = attack
    return found
