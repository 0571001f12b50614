"""What a reader of an evaluation's table must see beside the figures."""

import itertools
from typing import Any

from jaxpurify.evaluation.run_folder import NOT_FINITE
from jaxpurify.evaluation.threat_models import LADDER

CHANCE = 2  # images: a difference that is no sign of a masked gradient


def flags(evaluation: Any) -> list[str]:
    """Return the sentences that warn of an evaluation's figures.

    Args:
        evaluation: an ``Evaluation``.

    Returns:
        Sentences, the weightiest first.
    """
    return [
        *_about_data(evaluation),
        *_masked(evaluation),
        *_about_purifiers(evaluation),
        *_about_attacks(evaluation),
        *_about_rungs(evaluation),
        *_broken(evaluation),
    ]


def _about_data(evaluation: Any) -> list[str]:
    found = []
    if evaluation.config.get("demonstration"):
        found.append("demonstration, not evidence: the data set is a handful of photographs")
    if evaluation.images < (asked := evaluation.config["data"]["images"]):
        found.append(
            f"not finished: {evaluation.images} of {asked} images; start the same evaluation again to finish it"
        )
    return found


def _about_purifiers(evaluation: Any) -> list[str]:
    found = []
    zero = evaluation.config.get("zero_gradient", [])
    for name in zero:
        how = "uses its surrogate" if (name, "full") not in evaluation.reasons else "is not evaluated"
        found.append(
            f"{name}: its exact gradient is zero" + (f"; full {how}" if "full" in evaluation.threat_models else "")
        )
    for name in evaluation.config.get("out_of_range", []):
        found.append(f"{name}: it returns values outside [0, 1]; end it with jaxpurify.images.saturate")
    for name in evaluation.config.get("couples_images", []):
        found.append(f"{name}: the images of a batch influence one another, so that figures depend on the batch size")
    for (name, threat), reason in evaluation.reasons.items():
        # Hardly any purifier has a surrogate, nor needs one; and a zero gradient has been told of above.
        if threat != "substitute" and not (threat == "full" and name in zero):
            found.append(f"{name}: {threat} is not evaluated: {reason}")
    return found


def _about_attacks(evaluation: Any) -> list[str]:
    elsewhere = [threat for threat in evaluation.threat_models if threat in ("blind", "transfer")]
    return [
        f"{attack}: a minimal-norm attack, whose images lie just behind the boundary of the model they were made for: "
        f"shown to another, under {' and '.join(elsewhere)}, they make it look stronger than it is"
        for attack in evaluation.config.get("minimal_norm", ())
        if elsewhere
    ]


def _about_rungs(evaluation: Any) -> list[str]:
    found = []
    for name in evaluation.purifiers:
        rungs = [(threat, evaluation.worst(name, [threat])) for threat in LADDER if threat in evaluation.threat_models]
        means = [(threat, shares.mean()) for threat, shares in rungs if shares is not None]
        for (left, weaker), (right, stronger) in itertools.pairwise(means):
            if stronger > weaker + 1e-9:
                found.append(
                    f"{name}: {right} ({stronger:.1%}) leaves more standing than {left} ({weaker:.1%}), "
                    "although it knows more: that attack is too weak here"
                )
    return found


def masked(evaluation: Any, name: str) -> int:
    """Return how many more images the exact gradient leaves standing than the identity's does: a masked gradient.

    Args:
        evaluation: an ``Evaluation``.
        name: a purifier's name.

    Returns:
        The number of images, or 0 where it is at most ``CHANCE``, or where one of the two was not evaluated.

    Source: Athalye, Carlini and Wagner 2018 (arXiv 1802.00420). The tolerance of two images is our choice.
    """
    full, bpda = (evaluation.worst(name, [threat]) for threat in ("full", "bpda"))
    if full is None or bpda is None:
        return 0
    more = float(full.sum() - bpda.sum())
    return round(more) if more > CHANCE + 1e-6 else 0


def _masked(evaluation: Any) -> list[str]:
    counted = {name: masked(evaluation, name) for name in evaluation.purifiers}
    return [
        f"{name}: masked: its exact gradient leaves {count} images more standing than the identity in its place, so "
        "full says little about its strength"
        for name, count in counted.items()
        if count
    ]


def _broken(evaluation: Any) -> list[str]:
    records = [record for record in evaluation.records if record["status"] == NOT_FINITE]
    cells = {(record["purifier"], record["threat_model"], record["attack"]) for record in records}
    return [
        f"{name}: {threat} with {attack} met outputs that are not finite, where it learned nothing: its figure may be "
        "too high"
        for name, threat, attack in sorted(cells)
    ]
