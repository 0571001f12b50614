"""What attacks share that look for the nearest image that succeeds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpurify import keys as _keys
from jaxpurify.attacks import losses
from jaxpurify.attacks.attack import Attack
from jaxpurify.attacks.draws import draws_of, loss_and_gradient, search_keys
from jaxpurify.attacks.norms import ball
from jaxpurify.attacks.result import Answer, Best, Problem, choose
from jaxpurify.gradients import Expectation
from jaxpurify.models import attribute

TOLERANCE = 1e-6
# Of a random target's draws, where they are the same at every step. A bare majority would be met by luck.
SHARE = 0.75
# Of draws that are fresh at every step: each step is another chance of luck, and a lucky image, being nearer, would
# take the place of one that mostly succeeds.
FRESH_SHARE = 0.9


class MinimalNormAttack(Attack):
    """Base of the attacks that look for the nearest image that succeeds.

    With ``epsilon``, only images within it count as successes and are returned; without, any. The loss of an image is
    minus its distance. An image for which nothing is found is returned as it came, with a loss of minus infinity.

    Attributes:
        norms: the norms that the attack knows.
        averages: whether a random target's gradients may be averaged; otherwise a random target is refused.
    """

    minimal_norm = True
    norms: tuple[str, ...] = ("linf", "l2")
    averages = False

    def check(self):
        """Refuse norms that the attack does not know."""
        if self.norm not in self.norms:
            known = " or ".join(repr(norm) for norm in self.norms)
            raise ValueError(f"norm of {type(self).__name__} must be {known}, got {self.norm!r}")
        super().check()

    def prepare(self, target: Any, images: Any, labels: Any, key: Any, targets: Any) -> Problem:
        """Check the arguments of a call; refuse random targets where the method gives no way to average."""
        if attribute(target, "random") and not self.averages:
            raise ValueError(
                f"{type(self).__name__} steps to the boundary of one fixed function, got a random target: use PGD, "
                "CarliniWagner or DDN with eot=Expectation(samples=20)"
            )
        return super().prepare(target, images, labels, key, targets)

    @property
    def needs_key(self) -> bool:
        """Nothing is drawn against a deterministic target."""
        return False

    def keep(
        self, best: Best, problem: Problem, images: Any, answer: Answer, *, random: bool = False, **spent: Any
    ) -> Best:
        """Keep the nearer of the image kept so far and new ones that succeed within epsilon.

        Args:
            best: what is kept so far.
            problem: what is attacked.
            images: new images, shape ``(batch, height, width, channel)``, in [0, 1]; the first are the clean ones.
            answer: what the target said of them.
            random: whether the target is random; then ``answer.success`` must hold over several draws.
            spent: ``forwards``, ``backwards``, ``finite`` and ``steep``, as in ``Best.consider``.

        Returns:
            The nearer ones, image by image.
        """
        distance = jax.vmap(ball(self.norm).size)(images - problem.images)
        found = answer.success
        if problem.epsilon is not None:
            answer = answer._replace(success=found & (distance <= problem.epsilon * (1 + TOLERANCE)))
        # Nearest images beyond epsilon are kept too while the search goes on: it may lead on from them.
        kept = best.consider(images, -distance, answer, random=random, eligible=found, **spent)
        # Without a success nothing is kept, so any gradient on the way counts.
        kept = kept._replace(steep=best.steep | spent.get("steep", True))
        # Until one within epsilon is found the clean image stands for the result, so the margin is its own.
        clean = jnp.where(best.forwards > 0, best.margin, answer.margin.astype(best.margin.dtype))
        return kept._replace(margin=jnp.where(kept.success, kept.margin, clean))

    def settled(self, best: Best, problem: Problem) -> Best:
        """Return what is kept with clean images in the place of those that no success was found for."""
        loss = jnp.where(best.success, best.loss, -jnp.inf)
        return best._replace(images=choose(best.success, best.images, problem.images), loss=loss)


class Look(NamedTuple):
    """What one evaluation of an iterate says.

    Attributes:
        answer: the target's answer; against a random target, success is that of nine in ten fresh draws.
        margin: by how much the attack has succeeded in logits, shape ``(batch,)``: positive where it has.
        gradient: of the loss to the images, zero where it is not finite.
        spent: ``random``, ``finite``, ``steep``, ``forwards`` and ``backwards``, as ``MinimalNormAttack.keep`` takes.
    """

    answer: Answer
    margin: Any
    gradient: Any
    spent: dict[str, Any]


def look(attack: Any, target: Any, problem: Problem, images: Any, *, restart: Any, step: Any, loss: Any) -> Look:
    """Evaluate a loss and its gradient at images, averaged over draws where the target is random.

    Args:
        attack: the attack, with a field ``eot``: the expectation over keys, or None for one draw a gradient.
        target: what is attacked.
        problem: labels, targets and keys.
        images: shape ``(batch, height, width, channel)``.
        restart: number of the restart.
        step: number of the step.
        loss: ``f(outputs, labels, targets) -> (batch,)``, to be raised.

    Returns:
        What was met and spent.
    """
    random = attribute(target, "random")
    keys = search_keys(attack, problem, restart, step) if random else None

    def of_outputs(outputs):
        return loss(outputs, problem.labels, problem.targets)

    outputs, _, gradient = loss_and_gradient(attack, target, images, keys, of_outputs)
    usable = jnp.isfinite(gradient).all(axis=(1, 2, 3))
    gradient = jnp.where(usable[:, None, None, None], gradient, jnp.zeros_like(gradient))
    draws = draws_of(attack, target)
    answer, forwards = attack.answer(outputs, problem), draws
    if random:
        judges = attack.eot or Expectation()
        fresh = _keys.stream(problem.keys, "select", restart=restart, step=step)

        def succeeds(outputs):
            return attack.answer(outputs, problem).success.astype(images.dtype)

        counting = Expectation(samples=judges.samples, chunk=judges.chunk)
        answer = answer._replace(success=counting(target, images, fresh, succeeds)[0] >= FRESH_SHARE)
        forwards = draws + judges.samples
    steep = (gradient != 0).any(axis=(1, 2, 3))
    spent = {"random": random, "finite": usable, "steep": steep, "forwards": forwards, "backwards": draws}
    return Look(answer, losses.margin(outputs, problem.labels, problem.targets), gradient, spent)
