"""What an attack returns, and the iterate that it keeps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxpurify.attacks.norms import ball

STATUS = (
    "survived: no iterate succeeded",
    "fooled: the returned image succeeds",
    "not finite: loss or gradient was NaN or infinity at an iterate and nothing succeeded, so nothing is proved",
    "unreliable: nothing succeeded, but the gradients were zero or say little, so this is an upper bound",
)
SURVIVED, FOOLED, NOT_FINITE, UNRELIABLE = range(4)


class Problem(NamedTuple):
    """What is attacked, every entry with a leading batch axis.

    Attributes:
        images: clean images, shape ``(batch, height, width, channel)``.
        labels: reference of an untargeted attack, shape ``(batch, ...)``.
        targets: reference of a targeted one, or None.
        keys: typed keys of shape ``(batch,)``, or None.
        epsilon: sizes of the balls, shape ``(batch,)``; None where any distance counts.
        step_size: lengths of a step, shape ``(batch,)``; None where the attack sets them.
    """

    images: Any
    labels: Any
    targets: Any
    keys: Any
    epsilon: Any = None
    step_size: Any = None


def per_image(size: Any, problem: Problem, *, rows: Any = None) -> Any:
    """Return a size as one for each image.

    Args:
        size: a number, one for each of some images, or None.
        problem: the images.
        rows: which of those that the size is given for they are; by default all, in order.

    Returns:
        An array of shape ``(batch,)`` of the images' dtype, or None.
    """
    if size is None:
        return None
    numbers: Any = jnp if isinstance(size, jax.Array) else np
    size = numbers.asarray(size, problem.images.dtype)
    return numbers.broadcast_to(size if size.ndim == 0 or rows is None else size[rows], problem.images.shape[:1])


class Answer(NamedTuple):
    """What a target's outputs say of images, whatever the loss; made by ``Attack.answer``.

    Attributes:
        margin: the label's logit less the largest other, shape ``(batch,)``; NaN where outputs are no logits.
        success: whether the attack has succeeded, shape ``(batch,)``.
        finite: whether the outputs say something, shape ``(batch,)``: no NaN, no plus infinity.
        probabilities: whether outputs are non-negative and sum to one, shape ``(batch,)``.
    """

    margin: Float[Array, " batch"]
    success: Bool[Array, " batch"]
    finite: Bool[Array, " batch"]
    probabilities: Bool[Array, " batch"]


class Best(NamedTuple):
    """The iterate kept so far, an image, and what the search has met and spent.

    Attributes:
        images: shape ``(batch, height, width, channel)``.
        loss: shape ``(batch,)``.
        margin: the label's logit less the largest other, shape ``(batch,)``.
        success: shape ``(batch,)``.
        finite: whether every loss and gradient so far was finite, shape ``(batch,)``.
        probabilities: whether all outputs so far looked like probabilities, shape ``(batch,)``.
        steep: whether the gradient at the iterate kept is not zero, shape ``(batch,)``; True where none is followed.
        forwards: forward passes spent, shape ``(batch,)``.
        backwards: backward passes spent, shape ``(batch,)``.
        decided: forward passes up to the first success, or 0, shape ``(batch,)``.
    """

    images: Float[Array, "batch height width channel"]
    loss: Float[Array, " batch"]
    margin: Float[Array, " batch"]
    success: Bool[Array, " batch"]
    finite: Bool[Array, " batch"]
    probabilities: Bool[Array, " batch"]
    steep: Bool[Array, " batch"]
    forwards: Int[Array, " batch"]
    backwards: Int[Array, " batch"]
    decided: Int[Array, " batch"]

    def consider(
        self,
        images: Any,
        loss: Any,
        answer: Answer,
        *,
        random: bool,
        eligible: Any = True,
        finite: Any = True,
        steep: Any = True,
        forwards: Any = 1,
        backwards: Any = 0,
    ) -> "Best":
        """Keep the better of two iterates: one that succeeds before one that does not, then the higher loss.

        Where losses are equal, as where they underflow, the lower margin is better. A random target's success is a
        lucky draw and does not count: there only the loss does.

        Args:
            images: the new iterate.
            loss: its loss, shape ``(batch,)``.
            answer: what the target said of it.
            random: whether the target is random.
            eligible: whether the new iterate may be kept at all.
            finite: whether its gradient is finite; its loss and outputs are looked at here.
            steep: whether its gradient is not zero; True where none is followed.
            forwards: forward passes that it took, one number or one an image.
            backwards: backward passes that it took.

        Returns:
            The better one, image by image.
        """
        loss, margin = loss.astype(self.loss.dtype), answer.margin.astype(self.margin.dtype)
        success = answer.success & eligible
        higher = ((loss > self.loss) | ((loss == self.loss) & (margin < self.margin))) & eligible
        better = higher if random else (success & ~self.success) | ((success == self.success) & higher)
        spent = self.forwards + forwards
        return Best(
            images=choose(better, images, self.images),
            loss=choose(better, loss, self.loss),
            margin=choose(better, margin, self.margin),
            success=choose(better, success, self.success),
            finite=self.finite & finite & answer.finite & jnp.isfinite(loss),
            probabilities=self.probabilities & answer.probabilities,
            steep=jnp.where(better, steep, self.steep),
            forwards=spent,
            backwards=self.backwards + backwards,
            decided=jnp.where(success & (self.decided == 0), spent, self.decided),
        )

    def join(self, other: "Best", *, random: bool) -> "Best":
        """Keep the better of what two searches found, the second after the first, and add up what they spent.

        Args:
            other: what the second found.
            random: whether the target is random.

        Returns:
            The better one, image by image.
        """
        answer = Answer(other.margin, other.success, other.finite, other.probabilities)
        joined = self.consider(
            other.images,
            other.loss,
            answer,
            random=random,
            steep=other.steep,
            forwards=other.forwards,
            backwards=other.backwards,
        )
        later = jnp.where(other.decided > 0, self.forwards + other.decided, 0)
        return joined._replace(
            decided=jnp.where(self.decided > 0, self.decided, later),
            finite=self.finite & other.finite,
        )


def choose(which: Any, new: Any, old: Any) -> Any:
    """Take each image's value from one of two arrays.

    Args:
        which: whether from the first, shape ``(batch,)``.
        new: the first, shape ``(batch, ...)``.
        old: the second, same shape.

    Returns:
        The values taken.
    """
    return jnp.where(which.reshape(which.shape + (1,) * (new.ndim - which.ndim)), new, old)


def blank_best(images: Any) -> Best:
    """Return a ``Best`` that any iterate replaces.

    Args:
        images: clean images.

    Returns:
        Losses of minus infinity. The images are the clean ones (a copy: the state is donated), for a target whose
        losses are never above that, such as NaN.
    """
    count, dtype = images.shape[0], images.dtype
    return Best(
        images=jnp.array(images, copy=True),
        loss=jnp.full((count,), -jnp.inf, dtype),
        margin=jnp.full((count,), jnp.nan, dtype),
        success=jnp.zeros((count,), bool),
        finite=jnp.ones((count,), bool),
        probabilities=jnp.ones((count,), bool),
        steep=jnp.zeros((count,), bool),
        forwards=jnp.zeros((count,), jnp.int32),
        backwards=jnp.zeros((count,), jnp.int32),
        decided=jnp.zeros((count,), jnp.int32),
    )


class AttackResult(NamedTuple):
    """Images of a full-budget attack: fit to be shown to another model, but for those of minimal-norm attacks.

    Attributes:
        images: adversarial images, shape ``(batch, height, width, channel)``, in the ball and in [0, 1].
        success: whether each fools the attacked target (for a random target: on one draw seen in the search, which
            counts for nothing; score it on fresh keys), shape ``(batch,)``.
        loss: the attack's loss at the returned image, shape ``(batch,)``.
        margin: the label's logit less the largest other, shape ``(batch,)``; NaN where outputs are no logits.
        norm: norm of the perturbation, shape ``(batch,)``, in units of [0, 1].
        forwards: forward passes spent an image, shape ``(batch,)``: for black-box attacks, the queries.
        backwards: backward passes spent an image, shape ``(batch,)``.
        status: index into ``STATUS``, shape ``(batch,)``.
        probabilities: whether all outputs met looked like probabilities (losses expect logits), shape ``(batch,)``.
        trace: loss at each step, shape ``(batch, evaluations)``, or None unless asked for.
    """

    images: Float[Array, "batch height width channel"]
    success: Bool[Array, " batch"]
    loss: Float[Array, " batch"]
    margin: Float[Array, " batch"]
    norm: Float[Array, " batch"]
    forwards: Int[Array, " batch"]
    backwards: Int[Array, " batch"]
    status: Int[Array, " batch"]
    probabilities: Bool[Array, " batch"]
    trace: Float[Array, "batch evaluations"] | None = None


def summarise(best: Best, clean: Array, norm: str, trace: Array | None) -> AttackResult:
    """Turn the kept iterate into a result.

    Args:
        best: the kept iterate.
        clean: clean images.
        norm: the norm in which its distance is given.
        trace: losses of shape ``(batch, evaluations)``, or None.

    Returns:
        The result.
    """
    return AttackResult(
        images=best.images,
        success=best.success,
        loss=best.loss,
        margin=best.margin,
        norm=jax.vmap(ball(norm).size)(best.images - clean),
        forwards=best.forwards,
        backwards=best.backwards,
        status=jnp.where(
            best.success, FOOLED, jnp.where(~best.finite, NOT_FINITE, jnp.where(best.steep, SURVIVED, UNRELIABLE))
        ),
        probabilities=best.probabilities,
        trace=trace,
    )
