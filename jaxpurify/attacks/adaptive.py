"""The adaptive preset: everything that an attacker would try who knows that gradients may lie."""

from collections.abc import Sequence
from typing import Any

from jaxpurify import gradients
from jaxpurify.attacks.apgd import APGD
from jaxpurify.attacks.autoattack import AutoAttack, Frozen
from jaxpurify.attacks.boundary import BoundaryProjection
from jaxpurify.attacks.cascade import Cascade, Part
from jaxpurify.attacks.checks import check_counts
from jaxpurify.attacks.gradient import PGD
from jaxpurify.attacks.hop_skip_jump import HopSkipJump
from jaxpurify.attacks.noise import RandomNoise
from jaxpurify.attacks.result import Problem
from jaxpurify.attacks.tracing import check_same_count, differentiable
from jaxpurify.attacks.transfer import SurrogateEnsemble
from jaxpurify.attacks.transferable import MDIFGSM
from jaxpurify.datasets.classes import check_same_classes
from jaxpurify.independence import check_independence
from jaxpurify.models import Defended, as_target, attribute
from jaxpurify.pytrees import PerImage, pytree_dataclass, static


@pytree_dataclass
class Adaptive(Cascade):
    """Run AutoAttack, BPDA, transfer from the bare classifier, noise and attacks at the boundary in cascade.

    What is tried follows from the target alone. Always: AutoAttack ``standard``, random noise, gradients taken at the
    decision boundary (``BoundaryProjection``), and HopSkipJump, which needs no gradient and no score. Against a random
    target: AutoAttack ``rand`` too, PGD with twice the steps, and EOT in every gradient. Against a purifier (a
    ``Defended`` target): APGD through the identity in its place (BPDA) and through its surrogates, and images found on
    the bare classifier (unless the purifier changes their size). A purifier may bring attacks of its own by a method
    ``adaptive_attacks(norm, epsilon)`` that returns attacks by name. With ``surrogates``: images found on each of
    them, and on all of them together. Against outputs that have no gradient, such as decisions, the attacks that follow
    one are left out.

    Args:
        epsilon: the ball's size, in units of [0, 1], or one for each image, shape ``(images,)``.
        surrogates: classifiers that the attacker has beside the target, such as others trained on the same data.
        norm: ``"linf"`` or ``"l2"``, or ``"l1"`` (then without the attacks that are not for it).
        steps: iterations of APGD and FAB.
        queries: queries of Square and of HopSkipJump, each.
        draws: draws of random noise.

    Source: the list of Carlini et al. 2019 (arXiv 1902.06705) and of Tramèr et al. 2020 (arXiv 2002.08347), as far as
    it needs no thought about the one defence; the choice is ours.
    """

    epsilon: PerImage = 8 / 255
    surrogates: tuple[Any, ...] = ()
    norm: str = static("linf")
    steps: int = static(100)
    queries: int = static(5000)
    draws: int = static(1000)

    def check(self):
        """Refuse counts below one."""
        super().check()
        check_counts(self, "steps", "queries", "draws")
        if not isinstance(self.surrogates, tuple | list):
            raise TypeError(f"surrogates must be a tuple of classifiers, got {type(self.surrogates).__name__}")
        object.__setattr__(self, "surrogates", tuple(as_target(model) for model in self.surrogates))

    def parts_of(self, target: Any, problem: Problem) -> Sequence[Part]:
        """Return what is tried on these images, without attacks that would follow a gradient where there is none."""
        for number, model in enumerate(self.surrogates):
            name = f"surrogate {number}"
            check_same_count(model, target, problem.images, names=(name, "the target"))
            check_independence(model, problem.images, problem.keys, name=name)
        parts = super().parts_of(target, problem)
        return [part for part in parts if not part.attack.uses_gradient or differentiable(part.target, problem.images)]

    def parts(self, target: Any, classes: int) -> Sequence[Part]:
        """Return what is tried, the cheapest first."""
        random = attribute(target, "random")
        ball: dict[str, Any] = {"epsilon": self.epsilon, "norm": self.norm}
        parts = [Part("noise", RandomNoise(**ball, draws=self.draws), target)]
        for name, changed in _views(target):
            eot = gradients.Expectation(samples=20) if attribute(changed, "random") else None
            parts.append(Part(name, APGD(**ball, steps=self.steps, eot=eot), changed))
        for name, models in _surrogates(self.surrogates):
            ensemble = SurrogateEnsemble(models)
            check_same_classes(ensemble, target, names=(name, "the target"))
            parts.append(Part(name, MDIFGSM(**ball, steps=self.steps), ensemble))
        if random:
            # The field's yardstick for random purifiers, and at times stronger than APGD, which is misled by noise.
            parts.append(Part("PGD", PGD(**ball, steps=2 * self.steps, eot=gradients.Expectation(samples=20)), target))
        for version in ("rand", "standard") if random else ("standard",):
            attack = AutoAttack(**ball, version=version, steps=self.steps, queries=self.queries)
            names = {part.name for part in parts}
            for part in attack.parts(target, classes):
                parts.append(part._replace(name=f"{part.name} (fixed)" if part.name in names else part.name))
        if self.norm != "l1":
            fixed = Frozen(target=target) if random else target
            parts.append(Part("BoundaryProjection", BoundaryProjection(**ball), fixed))
            parts.append(Part("HopSkipJump", HopSkipJump(**ball, queries=self.queries), target))
        return parts + _own(target, self.norm, self.epsilon)


def _views(target: Any) -> list[tuple[str, Any]]:
    """Return the targets whose gradients, or images, may say more than the exact gradient of this one."""
    if not isinstance(target, Defended) or target.purifier is None:
        return []
    # A classifier behind a purifier that changes the size need not take the size that comes in.
    views = [] if attribute(target.purifier, "changes_size") else [("transfer", target.classifier)]
    views.append(("BPDA", Defended(target.classifier, gradients.straight_through(target.purifier))))
    if gradients.has_surrogate(target.purifier):
        views.append(("substitute", Defended(target.classifier, gradients.substitute(target.purifier))))
    return views


def _surrogates(models: tuple[Any, ...]) -> list[tuple[str, tuple[Any, ...]]]:
    """Return each surrogate by itself, and all of them where there are several, by name."""
    several = [("surrogates", models)] if len(models) > 1 else []
    return [*((f"surrogate {number}", (model,)) for number, model in enumerate(models)), *several]


def _own(target: Any, norm: str, epsilon: Any) -> list[Part]:
    own = getattr(getattr(target, "purifier", None), "adaptive_attacks", None)
    return [] if own is None else [Part(name, attack, target) for name, attack in own(norm, epsilon).items()]
