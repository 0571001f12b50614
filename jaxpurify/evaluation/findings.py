"""What an evaluation's figures say in words; every sentence follows from the figures."""

from typing import Any

import numpy as np

from jaxpurify.evaluation.knowledge import INFORMED, at_most

NEAR_ZERO = 0.05  # our choice: at most one image in twenty is left

MEANINGS = {
    "clean": "no attack.",
    "noise": "knows nothing: {noise_draws:,} random perturbations of the attack's size, the floor.",
    "blind": "knows the classifier but not the purifier, which then purifies what was found.",
    "transfer": "knows other classifiers only.",
    "blackbox": "knows nothing inside, but may ask the defended model for answers.",
    "bpda": "knows the purifier, and takes its gradient to be that of doing nothing.",
    "substitute": "knows the purifier, and differentiates a stand-in for what has no useful gradient.",
    "full": "knows the purifier, and differentiates it exactly.",
    "adaptive": "knows everything: of each image, the worst of all these and of attacks made for this purifier.",
    "worst case": "of each image, the worst of all attacks tried; what is left is an upper bound, never a proof.",
}


def meaning(evaluation: Any, name: str) -> str:
    """Return what a column of the table means.

    Args:
        evaluation: an ``Evaluation``.
        name: of a threat model, ``clean`` or ``worst case``.

    Returns:
        What that attacker knows, in one line.
    """
    return MEANINGS.get(name, "defined by whoever ran this evaluation.").format(**evaluation.config)


def lede(evaluation: Any) -> str:
    """Return the sentence that the figures support.

    Args:
        evaluation: an ``Evaluation``.

    Returns:
        What attackers who know the purifiers leave of them, beside what they leave of the undefended classifier.
    """
    bare = evaluation.undefended
    names = [name for name in evaluation.purifiers if name != bare]
    if not names:
        kept = evaluation.worst(bare)
        bound = f" It keeps at most {kept.mean():.1%}." if kept is not None and at_most(evaluation, bare) else ""
        return f"Nothing defends this classifier: the figures are its own.{bound}"
    left = {name: shares for name in names if (shares := _informed(evaluation, name)) is not None}
    if not left:
        kept = {
            name: s.mean() for name in names if at_most(evaluation, name) and (s := evaluation.worst(name)) is not None
        }
        bounds = ", ".join(f"{name} at most {share:.1%}" for name, share in kept.items())
        rest = f" Kept of the images: {bounds}." if kept else ""
        return f"No attacker here knew a purifier: the figures say nothing about one who does.{rest}"
    unknown = [name for name in names if name not in left]
    rest = f" No attacker here knew {' or '.join(unknown)}." if unknown else ""
    best = max(left, key=lambda name: left[name].mean())
    share = left[best].mean()
    # Where clean images are hardly recognised, attacks show nothing.
    recognised = min(evaluation.clean(name).fraction for name in names) > 0.5
    if share <= NEAR_ZERO and recognised and not unknown:
        return "No purifier here stops an attacker who knows it; see the ladder."
    alone = _informed(evaluation, bare)
    kept_by_best, kept_alone = (
        ("at most " if at_most(evaluation, name) else "") + f"{shares.mean():.1%}"
        for name, shares in ((best, left[best]), (bare, alone if alone is not None else np.zeros(1)))
    )
    if alone is None:
        return f"Against an attacker who knows it, {best} keeps {kept_by_best} of the images.{rest}"
    gain = left[best] - alone
    beyond_chance = gain.mean() > 1.96 * gain.std() / np.sqrt(len(gain))
    if gain.mean() <= 0 or not beyond_chance:
        clearly, chance = ("", "") if gain.mean() <= 0 else ("clearly ", ", a difference within chance")
        return (
            f"No purifier here {clearly}keeps more than the classifier alone, once the attacker knows it: {share:.1%} "
            f"of the images at most, where that keeps {kept_alone}{chance}.{rest}"
        )
    return (
        f"Against an attacker who knows it, {best} keeps {kept_by_best} of the images, where the classifier alone "
        f"keeps {kept_alone}; a stronger attack may leave less.{rest}"
    )


def _informed(evaluation: Any, name: str) -> np.ndarray | None:
    """Return each image's score under the attackers who know the purifier, and who can do what all others do too."""
    if evaluation.worst(name, [threat for threat in evaluation.threat_models if threat in INFORMED]) is None:
        return None
    return evaluation.worst(name)
