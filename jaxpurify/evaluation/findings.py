"""What an evaluation's figures say in words; every sentence follows from the figures."""

from typing import Any

import numpy as np

INFORMED = ("bpda", "substitute", "full", "adaptive")
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
    names = [name for name in evaluation.purifiers if name != evaluation.undefended]
    if not names:
        return "Nothing defends this classifier: the figures are its own."
    left = {name: shares for name in names if (shares := _informed(evaluation, name)) is not None}
    if not left:
        return "No attacker here knew a purifier: the figures say nothing about one who does."
    unknown = [name for name in names if name not in left]
    rest = f" No attacker here knew {' or '.join(unknown)}." if unknown else ""
    best = max(left, key=lambda name: left[name].mean())
    share = left[best].mean()
    # Where clean images are hardly recognised, attacks show nothing.
    recognised = min(evaluation.clean(name).fraction for name in names) > 0.5
    if share <= NEAR_ZERO and recognised and not unknown:
        return "No purifier here stops an attacker who knows it; see the ladder."
    alone = _informed(evaluation, evaluation.undefended)
    if alone is None:
        return f"Against an attacker who knows it, {best} keeps {share:.1%} of the images.{rest}"
    gain = left[best] - alone
    beyond_chance = gain.mean() > 1.96 * gain.std() / np.sqrt(len(gain))
    if gain.mean() <= 0 or not beyond_chance:
        clearly, chance = ("", "") if gain.mean() <= 0 else ("clearly ", ", a difference within chance")
        return (
            f"No purifier here {clearly}keeps more than the classifier alone, once the attacker knows it: {share:.1%} "
            f"of the images at most, where that keeps {alone.mean():.1%}{chance}.{rest}"
        )
    return (
        f"Against an attacker who knows it, {best} keeps {share:.1%} of the images, where the classifier alone keeps "
        f"{alone.mean():.1%}; a stronger attack may leave less.{rest}"
    )


def _informed(evaluation: Any, name: str) -> np.ndarray | None:
    """Return each image's score under the attackers who know the purifier."""
    return evaluation.worst(name, [threat for threat in evaluation.threat_models if threat in INFORMED])
