"""Several attacks as one: an image is lost to the first that fools it, and shown as the worst of them left it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import keys as _keys
from jaxpurify.attacks.attack import Attack
from jaxpurify.attacks.loops import loop
from jaxpurify.attacks.norms import ball
from jaxpurify.attacks.result import Best, Problem, blank_best, per_image
from jaxpurify.attacks.scoring import DRAWS
from jaxpurify.attacks.tracing import classes_of
from jaxpurify.models import attribute
from jaxpurify.parallel import Placement
from jaxpurify.precision import divided, widened


class Part(NamedTuple):
    """One attack of a cascade.

    Attributes:
        name: what tallies call it.
        attack: the attack.
        target: what it attacks; the images it finds are judged by the cascade's own target.
    """

    name: str
    attack: Attack
    target: Any

    def problem(self, whole: Problem) -> Problem:
        """Return the cascade's problem as this attack takes it: with the cascade's balls and its own steps."""
        return whole._replace(step_size=per_image(self.attack.step_size, whole))


class Cascade(Attack):
    """Base of several attacks run one after another; a subclass defines ``parts``.

    ``jaxpurify.attacks.verdict`` hands the images still standing from one part to the next. Calling the cascade, and
    ``run``, spend the full budget of every part on every image and return, of the versions of an image that succeed,
    the one with the lowest margin. What minimal-norm attacks found is extended to the edge of the ball too. Against a
    random target, outputs are averaged over 20 draws that no search has seen before images are compared.
    """

    restarts = 1
    uses_gradient = False  # some do, but not all, so that a zero gradient does not stop it

    def parts(self, target: Any, classes: int) -> Sequence[Part]:
        """Return the attacks in their order.

        Args:
            target: what the cascade attacks.
            classes: its number of classes.

        Returns:
            The parts.
        """
        raise NotImplementedError

    def parts_of(self, target: Any, problem: Problem) -> Sequence[Part]:
        """Return the attacks in their order.

        Args:
            target: what the cascade attacks.
            problem: images and keys, from which the number of classes follows.

        Returns:
            The parts.
        """
        return self.parts(target, classes_of(target, problem.images, problem.keys))

    @property
    def name(self) -> str:
        """What tables call it."""
        return type(self).__name__ + self._norm_suffix

    def calls(self, target: Any, classes: int) -> int:
        """Return the number of compiled calls of the full-budget searches of one batch."""
        return sum(part.attack.calls(part.target, classes) for part in self.parts(target, classes))

    @property
    def needs_key(self) -> bool:
        """Cascades hold attacks that draw random numbers."""
        return True

    def prepare(self, target: Any, images: Any, labels: Any, key: Any, targets: Any) -> Problem:
        """Check the arguments of a call, for every part; target classes are refused."""
        name = type(self).__name__
        if targets is not None:
            raise ValueError(f"{name} is untargeted, got targets: use a targeted attack such as PGD or APGD")
        problem = super().prepare(target, images, labels, key, None)
        for part in self.parts_of(target, problem):
            part.attack.prepare(part.target, problem.images, problem.labels, problem.keys, None)
        return problem

    def search(self, target: Any, problem: Problem, *, where: Placement, progress: Any = None) -> tuple[Best, Any]:
        """Spend the full budget of every part, driven from the host."""
        problem = self.sized(problem)
        attack, placed = where.everywhere((self.canonical(problem.images.dtype), target))
        kept, divided = where.put((blank_best(problem.images), problem))
        for part in self.parts_of(target, problem):
            found, _ = part.attack.search(part.target, part.problem(problem), where=where, progress=progress)
            keep = _keep_extended if part.attack.minimal_norm else _keep
            run = where.compile(keep, per_image=(False, False, True, True, True), donate=(3,))
            kept = run(attack, placed, divided, kept, found)
        return kept, None

    def search_on_device(self, target: Any, problem: Problem) -> tuple[Best, Any]:
        """Spend the full budget of every part, traceable."""
        kept = blank_best(problem.images)
        for part in self.parts_of(target, problem):
            found, _ = part.attack.search_on_device(part.target, part.problem(problem))
            keep = _keep_extended if part.attack.minimal_norm else _keep
            kept = keep(self, target, problem, kept, found)
        return kept, None


def _keep(cascade: Any, target: Any, problem: Problem, kept: Best, found: Best) -> Best:
    """Keep the worse of what earlier parts and one more left, judged by the cascade's own target."""
    answer = cascade.answer(_outputs(target, problem, found.images), problem)
    judged = found._replace(
        loss=(-answer.margin).astype(found.loss.dtype),
        margin=answer.margin,
        success=answer.success,
        finite=found.finite & answer.finite,
        probabilities=answer.probabilities,
        decided=jnp.zeros_like(found.decided),
        forwards=found.forwards + (DRAWS if attribute(target, "random") else 1),
    )
    return kept.join(judged, random=attribute(target, "random"))


def _keep_extended(cascade: Any, target: Any, problem: Problem, kept: Best, found: Best) -> Best:
    kept = _keep(cascade, target, problem, kept, found)

    def to_the_edge(image, clean, epsilon):
        size = ball(cascade.norm).size(image - clean)
        longer = jnp.maximum(divided(epsilon, size), 1)
        return ball(cascade.norm).inside(clean + (image - clean) * longer, clean, epsilon)

    edge = jax.vmap(to_the_edge)(found.images, problem.images, problem.epsilon)
    free = jnp.zeros_like(found.forwards)
    return _keep(cascade, target, problem, kept, found._replace(images=edge, forwards=free, backwards=free))


def _outputs(target: Any, problem: Problem, images: Any) -> Any:
    if not attribute(target, "random"):
        return target(images, None)

    def outputs(number):
        return widened(target(images, _keys.stream(problem.keys, "select", draw=number)))

    rest = loop(target, DRAWS - 1, lambda number, total: total + outputs(number + np.uint32(1)), outputs(0))
    return rest / DRAWS
