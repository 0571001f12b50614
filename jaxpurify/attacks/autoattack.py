"""AutoAttack: complementary attacks in cascade, without anything to tune."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify.attacks.apgd import APGD
from jaxpurify.attacks.attack import Attack
from jaxpurify.attacks.cascade import Cascade, Part
from jaxpurify.attacks.checks import check_counts
from jaxpurify.attacks.fab import FAB
from jaxpurify.attacks.naming import named
from jaxpurify.attacks.square import Square
from jaxpurify.gradients import Expectation
from jaxpurify.models import attribute
from jaxpurify.pytrees import PerImage, pytree_dataclass, static

VERSIONS = ("auto", "standard", "plus", "rand", "custom")
TARGET_CLASSES = 9


@pytree_dataclass
class Frozen:
    """A random target with its randomness fixed: every image meets the same draw, always.

    Args:
        target: the random target.
    """

    target: Any
    is_target = True

    @property
    def couples_images(self) -> bool:
        """Whether the target couples images."""
        return attribute(self.target, "couples_images")

    @property
    def calls_back(self) -> bool:
        """Whether the target calls back to the host."""
        return attribute(self.target, "calls_back")

    def __call__(self, images, key=None):
        return self.target(images, jnp.broadcast_to(jax.random.key(0), images.shape[:1]))


@pytree_dataclass
class AutoAttack(Cascade):
    """Run APGD, targeted APGD, targeted FAB and Square in cascade: nothing to tune, one headline.

    ``jaxpurify.attacks.verdict`` gives the headline (``robust_accuracy``) and what each attack felled (``tallies``).

    Args:
        epsilon: the ball's size, in units of [0, 1].
        attacks: the attacks of version ``"custom"``, in their order; their own epsilon is replaced by this one.
        norm: ``"linf"``, ``"l2"``, or ``"l1"`` (APGD alone, at enlarged radii first).
        version: ``"standard"``: APGD on cross entropy, APGD-T on the DLR loss of 9 target classes, FAB-T likewise, and
            Square. ``"plus"``: APGD on cross entropy and on DLR and untargeted FAB with five restarts each, and all of
            standard. ``"rand"``: APGD on cross entropy and on DLR, averaging over 20 draws. ``"custom"``: ``attacks``.
            ``"auto"``: ``"rand"`` for a random target and ``"standard"`` for others. Under ``"standard"`` and
            ``"plus"`` a random target is attacked with its randomness fixed, and judged on fresh draws.
        steps: iterations of APGD and FAB.
        queries: queries of Square.

    Source: Croce and Hein 2020 (arXiv 2003.01690); l1: Croce and Hein 2021 (arXiv 2103.01208). With fewer than ten
    classes all others are target classes, and with fewer than four the margin takes the place of the DLR loss, which
    needs four: our choice.
    """

    epsilon: PerImage = 8 / 255
    attacks: tuple[Any, ...] = ()
    norm: str = static("linf")
    version: str = static("auto")
    steps: int = static(100)
    queries: int = static(5000)

    def check(self):
        """Refuse unknown versions and attacks that do not fit."""
        super().check()
        if self.version not in VERSIONS:
            raise ValueError(f"version must be one of {', '.join(VERSIONS)}, got {self.version!r}")
        if (self.version == "custom") != bool(self.attacks):
            raise ValueError('version="custom" and attacks=(...) belong together: give both or neither')
        check_counts(self, "steps", "queries")
        for attack in self.attacks:
            if not isinstance(attack, Attack):
                raise TypeError(f"attacks must hold attacks such as jaxpurify.attacks.PGD(), got {attack!r}")
            if np.ndim(attack.step_size):
                raise ValueError(
                    f"step_size within AutoAttack must be one number, got shape {np.shape(attack.step_size)}"
                )
            if attack.norm != self.norm:
                raise ValueError(
                    f"attacks must all be of norm {self.norm}, got {type(attack).__name__} of {attack.norm}"
                )

    @property
    def name(self) -> str:
        """What tables call it."""
        return super().name + ("" if self.version == "auto" else f" {self.version}")

    def parts(self, target: Any, classes: int) -> Sequence[Part]:
        """Return the attacks of the version, in their order."""
        random = attribute(target, "random")
        version = self.version
        if version == "auto":
            version = "rand" if random else "standard"
        if version == "custom":
            attacks = named(self.attacks).items()
            return [Part(name, _replace(attack, epsilon=self.epsilon), target) for name, attack in attacks]
        if version == "rand":
            eot = Expectation(samples=20)
            return [
                Part(name, _replace(attack, eot=eot), target) for name, attack in self._untargeted(classes, restarts=1)
            ]
        fixed = Frozen(target=target) if random else target
        return [Part(name, attack, fixed) for name, attack in self._attacks(version, classes)]

    def _untargeted(self, classes: int, *, restarts: int) -> list[tuple[str, Attack]]:
        ratio = "dlr" if classes >= 3 else "margin"
        losses = ("CE", "cross-entropy"), (ratio.upper(), ratio)
        return [(f"APGD-{short}", self._apgd(loss, restarts)) for short, loss in losses]

    def _attacks(self, version: str, classes: int) -> list[tuple[str, Attack]]:
        plus, l1 = version == "plus", self.norm == "l1"
        # More restarts and fewer classes in l1, as in that paper's own setting.
        others = min(5 if l1 else TARGET_CLASSES, classes - 1)
        chosen = self._untargeted(classes, restarts=5 if plus or l1 else 1)[: None if plus else 1]
        chosen.append(("APGD-T", self._apgd("dlr" if classes >= 4 else "margin", 1, target_classes=others)))
        if l1:
            return chosen
        about: dict[str, Any] = {"epsilon": self.epsilon, "norm": self.norm}
        if plus:
            chosen.append(("FAB", FAB(**about, steps=self.steps, restarts=5)))
        chosen.append(("FAB-T", FAB(**about, steps=self.steps, target_classes=others)))
        chosen.append(("Square", Square(**about, queries=self.queries)))
        return chosen

    def _apgd(self, loss: str, restarts: int, target_classes: int = 0) -> APGD:
        return APGD(
            epsilon=self.epsilon,
            norm=self.norm,
            steps=self.steps,
            restarts=restarts,
            loss=loss,
            target_classes=target_classes,
            large_epsilons=self.norm == "l1",
        )


def _replace(attack: Any, **values: Any) -> Any:
    return dataclasses.replace(attack, **values)
