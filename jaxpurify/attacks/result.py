"""What an attack returns, and the iterate that it keeps."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

STATUS = (
    "survived: no iterate succeeded",
    "fooled: the returned image succeeds",
    "not finite: loss or gradient was NaN or infinity at an iterate and nothing succeeded, so nothing is proved",
)


class Problem(NamedTuple):
    """What is attacked, every entry with a leading batch axis.

    Attributes:
        images: clean images, shape ``(batch, height, width, channel)``.
        labels: reference of an untargeted attack, shape ``(batch, ...)``.
        targets: reference of a targeted one, or None.
        keys: typed keys of shape ``(batch,)``, or None.
    """

    images: Any
    labels: Any
    targets: Any
    keys: Any


class Best(NamedTuple):
    """The iterate kept so far, an image.

    Attributes:
        images: shape ``(batch, height, width, channel)``.
        loss: shape ``(batch,)``.
        margin: the label's logit less the largest other, shape ``(batch,)``.
        success: shape ``(batch,)``.
        finite: whether every loss and gradient so far was finite, shape ``(batch,)``.
    """

    images: Float[Array, "batch height width channel"]
    loss: Float[Array, " batch"]
    margin: Float[Array, " batch"]
    success: Bool[Array, " batch"]
    finite: Bool[Array, " batch"]

    def consider(self, images, loss, margin, success, finite, *, random: bool, eligible: Any = True) -> "Best":
        """Keep the better of two iterates: one that succeeds before one that does not, then the higher loss.

        Where losses are equal, as where they underflow, the lower margin is better. A random target's success is a
        lucky draw and does not count: there only the loss does.

        Args:
            images: the new iterate.
            loss: its loss, shape ``(batch,)``.
            margin: its margin, shape ``(batch,)``.
            success: whether it succeeds, shape ``(batch,)``.
            finite: whether its loss and gradient are finite, shape ``(batch,)``.
            random: whether the target is random.
            eligible: whether the new iterate may be kept at all.

        Returns:
            The better one, image by image.
        """
        loss, margin = loss.astype(self.loss.dtype), margin.astype(self.margin.dtype)
        higher = ((loss > self.loss) | ((loss == self.loss) & (margin < self.margin))) & eligible
        success = success & eligible
        better = higher if random else (success & ~self.success) | ((success == self.success) & higher)
        kept = better[:, None, None, None]
        return Best(
            images=jnp.where(kept, images, self.images),
            loss=jnp.where(better, loss, self.loss),
            margin=jnp.where(better, margin, self.margin),
            success=jnp.where(better, success, self.success),
            finite=self.finite & finite,
        )


class AttackResult(NamedTuple):
    """Images of a full-budget attack: fit to be shown to another model.

    Attributes:
        images: adversarial images, shape ``(batch, height, width, channel)``, in the ball and in [0, 1].
        success: whether each fools the attacked target (for a random target: on one draw seen in the search, which
            counts for nothing; score it on fresh keys), shape ``(batch,)``.
        loss: the attack's loss at the returned image, shape ``(batch,)``.
        margin: the label's logit less the largest other, shape ``(batch,)``; NaN where outputs are no logits.
        norm: norm of the perturbation, shape ``(batch,)``, in units of [0, 1].
        forwards: forward passes spent an image, shape ``(batch,)``.
        backwards: backward passes spent an image, shape ``(batch,)``.
        status: index into ``STATUS``, shape ``(batch,)``.
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
    trace: Float[Array, "batch evaluations"] | None = None


def summarise(best: Best, clean: Array, norm: str, forwards: int, backwards: int, trace: Array | None) -> AttackResult:
    """Turn the kept iterate into a result.

    Args:
        best: the kept iterate.
        clean: clean images.
        norm: ``"linf"`` or ``"l2"``.
        forwards: forward passes spent an image.
        backwards: backward passes spent an image.
        trace: losses of shape ``(batch, evaluations)``, or None.

    Returns:
        The result.
    """
    perturbation = jnp.abs(best.images - clean).reshape(clean.shape[0], -1)
    size = perturbation.max(axis=1) if norm == "linf" else jnp.sqrt((perturbation**2).sum(axis=1))
    spent = jnp.ones(clean.shape[:1], jnp.int32)
    return AttackResult(
        images=best.images,
        success=best.success,
        loss=best.loss,
        margin=best.margin,
        norm=size,
        forwards=spent * forwards,
        backwards=spent * backwards,
        status=jnp.where(best.success, 1, jnp.where(best.finite, 0, 2)),
        trace=trace,
    )
