"""Per-image losses that attacks raise, and the judgement of success, for classification.

A loss takes ``(outputs, labels, targets)`` and returns one number an image; ``targets`` is None when untargeted. A
caller's own loss ``f(outputs, reference)`` is raised away from the labels, or, with targets, lowered towards them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Loss = Callable[[Any, Any, Any], Array]


def cross_entropy(
    outputs: Float[Array, "batch classes"], labels: Int[Array, " batch"], targets: Int[Array, " batch"] | None = None
) -> Float[Array, " batch"]:
    """Return the cross entropy of the label; with targets, minus that of the target.

    Args:
        outputs: logits, shape ``(batch, classes)``.
        labels: shape ``(batch,)``.
        targets: classes to reach, shape ``(batch,)``, or None.

    Returns:
        The loss to raise, shape ``(batch,)``, in nats. Its slope is kept above 1e-20, our choice: an image
        classified by a gap of thousands has a gradient too.
    """
    # Not logsumexp less the logit: in float32 that rounds to 0, and loses half of its gradient, where an image is
    # classified by a gap of 16 or more, and an attack on it would be weaker than it could be.
    if targets is None:
        return _softplus(_all_others(outputs, labels) - _of(outputs, labels))
    return -_softplus(_all_others(outputs, targets) - _of(outputs, targets))


@jax.custom_jvp
def _softplus(gap: Array) -> Array:
    return jax.nn.softplus(gap)


@_softplus.defjvp
def _softplus_derivative(primals, tangents):
    # The slope is one factor of all of an image's gradient, so attacks use its direction alone: kept off zero, it
    # shows that direction at any gap, where the exact slope would vanish in float32 beyond a gap of 103.
    (gap,), (tangent,) = primals, tangents
    return _softplus(gap), jnp.maximum(jax.nn.sigmoid(gap), 1e-20) * tangent


def margin(
    outputs: Float[Array, "batch classes"], labels: Int[Array, " batch"], targets: Int[Array, " batch"] | None = None
) -> Float[Array, " batch"]:
    """Return by how much the largest other logit exceeds the label's; with targets, the target's the largest other.

    Args:
        outputs: logits, shape ``(batch, classes)``.
        labels: shape ``(batch,)``.
        targets: classes to reach, shape ``(batch,)``, or None.

    Returns:
        The loss to raise, shape ``(batch,)``; positive where the attack has succeeded.

    Source: Carlini and Wagner 2017 (arXiv 1608.04644), f6, without the confidence bound.
    """
    if targets is None:
        return _largest_other(outputs, labels) - _of(outputs, labels)
    return _of(outputs, targets) - _largest_other(outputs, targets)


def dlr(
    outputs: Float[Array, "batch classes"], labels: Int[Array, " batch"], targets: Int[Array, " batch"] | None = None
) -> Float[Array, " batch"]:
    """Return the difference of logits ratio: a margin that does not change when logits are scaled.

    Args:
        outputs: logits, shape ``(batch, classes)``, of at least 3 classes (4 with targets).
        labels: shape ``(batch,)``.
        targets: classes to reach, shape ``(batch,)``, or None.

    Returns:
        The loss to raise, shape ``(batch,)``.

    Raises:
        ValueError: if there are too few classes.

    Source: Croce and Hein 2020 (arXiv 2003.01690), equations 6 and 7. The denominator is kept above 1e-12, as there.
    """
    needed = 3 if targets is None else 4
    if outputs.shape[-1] < needed:
        raise ValueError(f"the dlr loss needs at least {needed} classes, got {outputs.shape[-1]}: use the margin loss")
    top = jax.lax.top_k(outputs, needed)[0]
    if targets is None:
        return -(_of(outputs, labels) - _largest_other(outputs, labels)) / (top[:, 0] - top[:, 2] + 1e-12)
    spread = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return -(_of(outputs, labels) - _of(outputs, targets)) / (spread + 1e-12)


LOSSES: dict[str, Loss] = {"cross-entropy": cross_entropy, "margin": margin, "dlr": dlr}


def resolve(loss: str | Callable) -> Loss:
    """Return a loss ``(outputs, labels, targets)`` from its name or from a caller's own function.

    Args:
        loss: a name in ``LOSSES``, one of those functions, or ``f(outputs, reference) -> (batch,)``.

    Returns:
        The function of three arguments.

    Raises:
        ValueError: if the name is unknown.
    """
    if callable(loss):
        return loss if loss in LOSSES.values() or isinstance(loss, MeanLoss) else _Own(loss)
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {sorted(LOSSES)} or a function, got {loss!r}")
    return LOSSES[loss]


class _Own:
    """A caller's loss of outputs and one reference."""

    def __init__(self, function: Callable):
        self.function = function

    def __call__(self, outputs, labels, targets=None):
        return self.function(outputs, labels) if targets is None else -self.function(outputs, targets)


class MeanLoss(NamedTuple):
    """A loss averaged over the members of an ensemble, whose outputs are a tuple of theirs.

    Attributes:
        loss: a name in ``LOSSES``, one of those functions, or ``f(outputs, reference) -> (batch,)``.
    """

    loss: str | Callable

    def __call__(self, outputs, labels, targets=None):
        loss = resolve(self.loss)
        return sum(loss(member, labels, targets) for member in outputs) / len(outputs)


def misclassified(outputs: Float[Array, "batch classes"], labels: Int[Array, " batch"]) -> Bool[Array, " batch"]:
    """Say which images are not given their label (outputs that are not finite count as neither).

    Args:
        outputs: logits, shape ``(batch, classes)``.
        labels: shape ``(batch,)``.

    Returns:
        Booleans of shape ``(batch,)``.
    """
    return (jnp.argmax(outputs, axis=-1).astype(labels.dtype) != labels) & jnp.isfinite(outputs).all(axis=-1)


def classified_as(outputs: Float[Array, "batch classes"], targets: Int[Array, " batch"]) -> Bool[Array, " batch"]:
    """Say which images are given the class that a targeted attack wants.

    Args:
        outputs: logits, shape ``(batch, classes)``.
        targets: shape ``(batch,)``.

    Returns:
        Booleans of shape ``(batch,)``.
    """
    return (jnp.argmax(outputs, axis=-1).astype(targets.dtype) == targets) & jnp.isfinite(outputs).all(axis=-1)


def succeeded(success: Callable | None, outputs: Any, labels: Any, targets: Any) -> Bool[Array, " batch"]:
    """Judge outputs with the caller's ``success(outputs, reference)``, or as classification.

    Args:
        success: the caller's judgement, or None.
        outputs: what the target returned.
        labels: the reference of an untargeted attack.
        targets: the reference of a targeted one, or None.

    Returns:
        Booleans of shape ``(batch,)``.
    """
    if success is not None:
        return success(outputs, labels if targets is None else targets)
    return misclassified(outputs, labels) if targets is None else classified_as(outputs, targets)


def oddities(outputs: Any) -> tuple[Bool[Array, " batch"], Bool[Array, " batch"]]:
    """Say whether all outputs of an image are finite, and whether they look like probabilities.

    Args:
        outputs: what a target returned, every leaf with a leading batch axis.

    Returns:
        Two arrays of booleans of shape ``(batch,)``: finite, and non-negative with a sum of one.
    """
    leaves = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(outputs)]
    finite = functools.reduce(jnp.logical_and, [jnp.isfinite(leaf).all(axis=1) for leaf in leaves])
    single = leaves[0] if isinstance(outputs, jax.Array) and outputs.ndim == 2 and outputs.shape[1] > 1 else None
    if single is None:
        return finite, jnp.zeros_like(finite)
    return finite, (single >= 0).all(axis=1) & (jnp.abs(single.sum(axis=1) - 1) < 1e-3)


def label_margin(outputs: Any, labels: Any) -> Float[Array, " batch"]:
    """Return the label's logit less the largest other: positive where the image is classified correctly.

    Args:
        outputs: logits of shape ``(batch, classes)``; anything else has no margin.
        labels: integers of shape ``(batch,)``; anything else has no margin.

    Returns:
        Margins of shape ``(batch,)``, NaN where there is none.
    """
    leaf = jax.tree.leaves(outputs)[0]
    classification = isinstance(outputs, jax.Array) and outputs.ndim == 2 and outputs.shape[1] > 1
    if (
        classification
        and isinstance(labels, jax.Array)
        and jnp.issubdtype(labels.dtype, jnp.integer)
        and labels.ndim == 1
    ):
        return -margin(outputs, labels)
    return jnp.full(leaf.shape[:1], jnp.nan, leaf.dtype)


def _of(outputs: Array, labels: Array) -> Array:
    return jnp.take_along_axis(outputs, labels[:, None], axis=-1, mode="fill")[:, 0]


def _all_others(outputs: Array, labels: Array) -> Array:
    own = jax.nn.one_hot(labels, outputs.shape[-1], dtype=bool)
    return jax.nn.logsumexp(jnp.where(own, jnp.asarray(-jnp.inf, outputs.dtype), outputs), axis=-1)


def _largest_other(outputs: Array, labels: Array) -> Array:
    own = jax.nn.one_hot(labels, outputs.shape[-1], dtype=bool)
    return jnp.where(own, jnp.asarray(-jnp.inf, outputs.dtype), outputs).max(axis=-1)
