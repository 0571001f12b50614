"""What each attacker knows beside another, and what follows where knowing more leaves more standing."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxpurify.evaluation.run_folder import UNRELIABLE

# Whoever stands later knows all that those before know.
CHAIN = ("transfer", "blind", "bpda", "substitute", "full", "adaptive")
INFORMED = ("bpda", "substitute", "full", "adaptive")  # who know the purifier
BUILTIN = ("noise", "blackbox", *CHAIN)
# Standard deviations. The first is a one-sided test at 1 %, and six images of six pass it; shares of draws differ by
# chance in every image, in many comparisons, and a share of one image is nothing to warn of.
DETERMINISTIC, RANDOM = 2.33, 3.0


class Contradiction(NamedTuple):
    """A threat model that leaves more standing than another whose attacker knows less.

    Attributes:
        stronger: the threat model that knows more.
        weaker: the one that knows less; of several the one with the largest difference.
        left: share of the images that the stronger leaves.
        expected: share that the weaker leaves, with attacks of the same norm and no larger size.
    """

    stronger: str
    weaker: str
    left: float
    expected: float


def less_informed(threat: str, others: Iterable[str]) -> list[str]:
    """Return whose knowledge is a part of a threat model's own.

    Args:
        threat: its name.
        others: names of threat models.

    Returns:
        Those of them that know less: ``noise`` less than all; ``blackbox`` less than those who know the purifier; one's
        own less than ``full`` and ``adaptive``. All else cannot be compared.
    """
    if threat == "noise":
        return []
    known = {"noise"} | set(CHAIN[: CHAIN.index(threat)] if threat in CHAIN else ())
    if threat in INFORMED:
        known.add("blackbox")
    others = [other for other in others if other != threat]
    return [o for o in others if o in known or (o not in BUILTIN and threat in ("full", "adaptive"))]


def beyond_chance(differences: np.ndarray, *, random: bool) -> bool:
    """Say whether paired differences are positive beyond chance.

    Args:
        differences: one an image, shape ``(images,)``.
        random: whether they are of shares of draws, which differ in every image.

    Returns:
        Whether their sum is more than 2.33 standard deviations above zero if the sign of each were a coin's toss; for
        random models more than 3, and at least one image.

    Source: the sign-flip test, in its normal approximation; the thresholds are our choice.
    """
    total, spread = float(differences.sum()), float(np.sqrt((differences**2).sum()))
    if random:
        return total > RANDOM * spread and total >= 1 - 1e-9
    return total > DETERMINISTIC * spread


def contradictions(evaluation: Any, name: str) -> list[Contradiction]:
    """Return where a purifier's attackers who know more leave more standing than those who know less.

    Args:
        evaluation: an ``Evaluation``.
        name: a purifier's name.

    Returns:
        At most one for each threat model, beyond chance.

    Source: Athalye, Carlini and Wagner 2018 (arXiv 1802.00420), section 3.1: signs of a masked gradient.
    """
    found = []
    for stronger in evaluation.threat_models:
        worst: tuple[float, Contradiction] | None = None
        for weaker in less_informed(stronger, evaluation.threat_models):
            pair = _paired(evaluation, name, stronger, weaker)
            if pair is None or not beyond_chance(pair[0] - pair[1], random=evaluation.random(name)):
                continue
            more = float((pair[0] - pair[1]).sum())
            if worst is None or more > worst[0]:
                worst = more, Contradiction(stronger, weaker, float(pair[0].mean()), float(pair[1].mean()))
        if worst is not None:
            found.append(worst[1])
    return found


def identity_is_void(evaluation: Any, name: str) -> str | None:
    """Return a threat model that shows that the identity says nothing about a purifier's gradient.

    Args:
        evaluation: an ``Evaluation``.
        name: a purifier's name.

    Returns:
        The one that leaves the least, where ``bpda`` is no better than noise (or, without ``noise``, than no attack)
        and another is better than ``bpda``, both beyond chance; else None. None too where the gradient of the
        classifier alone says little, since that explains as much.
    """
    if name == evaluation.undefended or evaluation.worst(name, ["bpda"]) is None:
        return None
    alone = evaluation.agreement(evaluation.undefended)
    if alone is not None and not alone["reliable"]:
        return None
    random = evaluation.random(name)
    pair = _paired(evaluation, name, "noise", "bpda")
    if pair is None:
        pair = evaluation.correct(name, "clean", "none", 0.0), evaluation.worst(name, ["bpda"])
    if beyond_chance(pair[0] - pair[1], random=random):
        return None
    better = {}
    for other in ("blackbox", "blind", "substitute", "full", "adaptive"):
        pair = _paired(evaluation, name, "bpda", other)
        if pair is not None and beyond_chance(pair[0] - pair[1], random=random):
            better[other] = float(pair[1].sum())
    return min(better, key=lambda other: better[other]) if better else None


def masked(evaluation: Any, name: str) -> bool:
    """Say whether a purifier's exact gradient misleads those who follow it.

    Args:
        evaluation: an ``Evaluation``.
        name: a purifier's name.

    Returns:
        Whether ``full`` leaves more standing than an attacker who knows less, or the gradient does not say how the
        defended model changes. One that is zero everywhere misleads nobody: there is no figure under ``full`` then.
    """
    agreement = evaluation.agreement(name)
    lies = agreement is not None and not agreement["reliable"] and not agreement["blind"]
    return lies or any(found.stronger == "full" for found in contradictions(evaluation, name))


def at_most(evaluation: Any, name: str) -> bool:
    """Say whether a purifier's worst case is an upper bound, because its exact gradient could not be followed.

    Args:
        evaluation: an ``Evaluation``.
        name: a purifier's name.

    Returns:
        Whether ``full`` was not evaluated in whole (nor ``adaptive``; of the bare classifier, ``blind`` and ``bpda``
        are as good), or its gradient is zero, for some image, with no surrogate in its place, or masked. Where no image
        is left, nothing needs a bound.
    """
    worst = evaluation.worst(name)
    if worst is None or not worst.any():
        return False
    exact = ("full", "adaptive", *(("blind", "bpda") if name == evaluation.undefended else ()))
    tried = [
        threat for threat in exact if threat in evaluation.threat_models and (name, threat) not in evaluation.reasons
    ]
    missing = not tried or (name, "full") in evaluation.reasons
    missing |= any(key[:2] == (name, "full") for key in evaluation.skipped)
    missing |= any(
        record["purifier"] == name and record["threat_model"] in exact and record["status"] == UNRELIABLE
        for record in evaluation.records
    )
    agreement = evaluation.agreement(name)
    blind = agreement is not None and agreement["blind"] and name not in evaluation.config.get("stand_in", ())
    return missing or blind or masked(evaluation, name)


def _paired(evaluation: Any, name: str, one: str, other: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Return each image's score under two threat models, the second with attacks of the first's norms and no larger."""
    sizes: dict[str, float] = {}
    for attack, epsilon in evaluation.cells(name, one):
        norm = evaluation.norms[one, attack, epsilon]
        sizes[norm] = max(epsilon, sizes.get(norm, 0.0))
    within = [
        (attack, epsilon)
        for attack, epsilon in evaluation.cells(name, other)
        if epsilon <= sizes.get(evaluation.norms[other, attack, epsilon], -1.0) * (1 + 1e-5)
    ]
    norms = {evaluation.norms[other, attack, epsilon] for attack, epsilon in within}
    first = [cell for cell in evaluation.cells(name, one) if evaluation.norms[one, *cell] in norms]
    scores = [evaluation.worst_of(name, [(t, *c) for c in cells]) for t, cells in ((one, first), (other, within))]
    return None if scores[0] is None or scores[1] is None else (scores[0], scores[1])
