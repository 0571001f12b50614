"""What a reader of an evaluation's table must see beside the figures."""

from typing import Any

from jaxpurify.evaluation.knowledge import contradictions, identity_is_void
from jaxpurify.evaluation.run_folder import NOT_FINITE, UNRELIABLE


def flags(evaluation: Any) -> list[str]:
    """Return the sentences that warn of an evaluation's figures.

    Args:
        evaluation: an ``Evaluation``.

    Returns:
        Sentences, the weightiest first.
    """
    return [
        *_about_data(evaluation),
        *_about_knowledge(evaluation),
        *_about_gradients(evaluation),
        *_about_purifiers(evaluation),
        *_about_attacks(evaluation),
        *_not_finite(evaluation),
        *_without_gradient(evaluation),
    ]


def _about_data(evaluation: Any) -> list[str]:
    found = []
    if evaluation.config.get("demonstration"):
        found.append("demonstration, not evidence: the data set is a handful of photographs")
    if evaluation.config.get("ordered_classes"):
        found.append(
            "the classifier does not name its classes: labels are taken in the order of the data's names "
            f"({', '.join(evaluation.config['class_names'][:3])}, …); give it class_names"
        )
    if evaluation.images < (asked := evaluation.config["data"]["images"]):
        found.append(
            f"not finished: {evaluation.images} of {asked} images; start the same evaluation again to finish it"
        )
    return found


def _about_knowledge(evaluation: Any) -> list[str]:
    masked, weak = [], []
    for name in evaluation.purifiers:
        shows = identity_is_void(evaluation, name)
        if shows is not None:
            weak.append(
                f"{name}: bpda is no better than noise, and {shows} is: the identity says nothing about this "
                "purifier's gradient"
            )
        for stronger, weaker, left, expected in contradictions(evaluation, name):
            comparison = f"{stronger} ({left:.1%}) leaves more standing than {weaker} ({expected:.1%})"
            if stronger == "full":
                masked.append(
                    f"{name}: masked: {comparison}, although it knows more: the exact gradient hides the way, and full "
                    "says little about its strength"
                )
            elif stronger != "bpda" or shows is None:
                weak.append(f"{name}: {comparison}, although it knows more: that attack is too weak here")
    return masked + weak


def _about_gradients(evaluation: Any) -> list[str]:
    found = []
    for name in evaluation.purifiers:
        agreement = evaluation.agreement(name)
        if agreement is not None and agreement["sentence"] and not agreement["blind"]:
            found.append(f"{name}: {agreement['sentence']}")
    for name in evaluation.config.get("zero_gradient", []):
        how = "uses its surrogate" if name in evaluation.config.get("stand_in", ()) else "is evaluated only without it"
        if (name, "full") in evaluation.reasons:
            how = "is not evaluated"
        found.append(
            f"{name}: its exact gradient is zero" + (f"; full {how}" if "full" in evaluation.threat_models else "")
        )
    for name, threat, attack in evaluation.config.get("upper_bounds", []):
        found.append(
            f"{name}: {threat} with {attack} gives an upper bound: the gradient of what it attacks is zero, so that "
            "only its parts that do without had something to see"
        )
    return found


def _about_purifiers(evaluation: Any) -> list[str]:
    found = []
    for name in evaluation.config.get("out_of_range", []):
        found.append(f"{name}: it returns values outside [0, 1]; end it with jaxpurify.images.saturate")
    for name in evaluation.config.get("couples_images", []):
        found.append(f"{name}: the images of a batch influence one another, so that figures depend on the batch size")
    missing: dict[tuple[str, str], list[str]] = {}
    for (name, threat), reason in evaluation.reasons.items():
        # Hardly any purifier has a surrogate, nor needs one; and a zero gradient was reported above.
        if threat != "substitute" and not (threat == "full" and name in evaluation.config.get("zero_gradient", [])):
            missing.setdefault((name, reason), []).append(threat)
    for (name, threat, attack), reason in evaluation.skipped.items():
        if not (threat == "full" and name in evaluation.config.get("zero_gradient", [])):
            missing.setdefault((name, reason), []).append(f"{threat} with {attack}")
    for (name, reason), threats in missing.items():
        found.append(f"{name}: {enumerated(threats)} {'is' if len(threats) == 1 else 'are'} not evaluated: {reason}")
    return found


def enumerated(words: list[str]) -> str:
    """Return words as a list within a sentence.

    Args:
        words: at least one.

    Returns:
        Such as ``blind, bpda and full``.
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _about_attacks(evaluation: Any) -> list[str]:
    elsewhere = [threat for threat in evaluation.threat_models if threat in ("blind", "transfer")]
    return [
        f"{attack}: a minimal-norm attack, whose images lie just behind the boundary of the model they were made for: "
        f"shown to another, under {' and '.join(elsewhere)}, they make it look stronger than it is"
        for attack in evaluation.config.get("minimal_norm", ())
        if elsewhere
    ]


def _not_finite(evaluation: Any) -> list[str]:
    return [
        f"{name}: {threat} with {attack} met outputs that are not finite, or gradients, at {count} of "
        f"{evaluation.images} images: nothing is proved of those, so they do not count as right"
        for (name, threat, attack), count in _met(evaluation, NOT_FINITE)
    ]


def _without_gradient(evaluation: Any) -> list[str]:
    """Warn of images that stand where the gradient was zero at the end of the search."""
    return [
        f"{name}: the gradient that {threat} with {attack} follows was zero where it came to an end at {count} "
        f"of {evaluation.images} images, which stand: its figure is an upper bound"
        for (name, threat, attack), count in _met(evaluation, UNRELIABLE)
    ]


def _met(evaluation: Any, status: int) -> list[tuple[tuple[str, str, str], int]]:
    """Count the images of a status by purifier, threat model and attack."""
    met: dict[tuple[str, str, str], set[int]] = {}
    for record in evaluation.records:
        if record["status"] == status:
            cell = record["purifier"], record["threat_model"], record["attack"]
            met.setdefault(cell, set()).add(record["image"])
    return [(cell, len(images)) for cell, images in sorted(met.items())]
