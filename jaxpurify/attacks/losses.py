"""Per-image losses that attacks raise, and the judgement of success, for classification.

A loss takes ``(outputs, labels, targets)`` and returns one number an image; ``targets`` is None when untargeted. A
caller's own loss ``f(outputs, reference)`` is raised away from the labels, or, with targets, lowered towards them.

Losses compute in float32 at least, whatever the dtype of the outputs, and finitely: a logit of minus infinity is that
of a class that cannot win, and NaN or plus infinity says nothing.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxpurify.precision import widened

Loss = Callable[[Any, Any, Any], Array]


_LOWEST = -1e37
_ALIKE = 1e-3


def finite_logits(outputs: Shaped[Array, "batch classes"]) -> Float[Array, "batch classes"]:
    """Return logits in float32 at least, with a very low number in the place of minus infinity.

    Args:
        outputs: logits of any dtype, or decisions as integers or truth values.

    Returns:
        The same shape; NaN and plus infinity stay.
    """
    logits = widened(outputs)
    return jnp.where(logits < _LOWEST, jnp.full_like(logits, _LOWEST), logits)


def cross_entropy(
    outputs: Shaped[Array, "batch classes"], labels: Int[Array, " batch"], targets: Int[Array, " batch"] | None = None
) -> Float[Array, " batch"]:
    """Return the cross entropy of the label; with targets, minus that of the target.

    Args:
        outputs: logits, shape ``(batch, classes)``.
        labels: shape ``(batch,)``.
        targets: classes to reach, shape ``(batch,)``, or None.

    Returns:
        The loss to raise, shape ``(batch,)``, in nats. Two choices are ours. Its slope is kept above 1e-20: an image
        classified by a gap of thousands has a gradient too. And where all logits that are not minus infinity lie within
        1e-3 of each other, it is the margin: all classes have the same probability there, to rounding, and the cross
        entropy would neither rise nor say which class is the nearest.
    """
    # Not logsumexp less the logit: in float32 that rounds to 0, and loses half of its gradient, where an image is
    # classified by a gap of 16 or more, and an attack on it would be weaker than it could be.
    logits = finite_logits(outputs)
    own = labels if targets is None else targets
    loss = _softplus(_all_others(logits, own) - _of(logits, own))
    fixed = jax.lax.stop_gradient(logits)
    lowest = jnp.where(fixed > _LOWEST, fixed, jnp.inf).min(axis=-1)
    alike = fixed.max(axis=-1) - lowest < _ALIKE
    return jnp.where(alike, margin(outputs, labels, targets), loss if targets is None else -loss)


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
    outputs: Shaped[Array, "batch classes"], labels: Int[Array, " batch"], targets: Int[Array, " batch"] | None = None
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
    logits = finite_logits(outputs)
    if targets is None:
        return _largest_other(logits, labels) - _of(logits, labels)
    return _of(logits, targets) - _largest_other(logits, targets)


def dlr(
    outputs: Shaped[Array, "batch classes"], labels: Int[Array, " batch"], targets: Int[Array, " batch"] | None = None
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

    Source: Croce and Hein 2020 (arXiv 2003.01690), equations 6 and 7. Where the denominator is zero, or fewer classes
    than it needs can win, it is 1: our choice (there, 1e-12 is added).
    """
    needed = 3 if targets is None else 4
    if outputs.shape[-1] < needed:
        raise ValueError(f"the dlr loss needs at least {needed} classes, got {outputs.shape[-1]}: use the margin loss")
    logits = finite_logits(outputs)
    top = jax.lax.top_k(logits, needed)[0]
    if targets is None:
        return _ratio(_largest_other(logits, labels) - _of(logits, labels), top[:, 0] - top[:, 2])
    return _ratio(_of(logits, targets) - _of(logits, labels), top[:, 0] - (top[:, 2] + top[:, 3]) / 2)


def _ratio(gap: Array, spread: Array) -> Array:
    # Where the logits below are those of classes that cannot win, or all are equal, the gap alone says something.
    usable = (spread > 0) & (spread < -_LOWEST / 4)
    return jnp.clip(gap / jnp.where(usable, spread, jnp.ones_like(spread)), -1e30, 1e30)


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
    """A caller's loss of outputs, in float32 at least, and one reference."""

    def __init__(self, function: Callable):
        self.function = function

    def __call__(self, outputs, labels, targets=None):
        outputs = widened(outputs, decisions=False)
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


def misclassified(outputs: Shaped[Array, "batch classes"], labels: Int[Array, " batch"]) -> Bool[Array, " batch"]:
    """Say which images are given another class than their label (outputs that say nothing count as neither).

    Args:
        outputs: logits, shape ``(batch, classes)``.
        labels: shape ``(batch,)``.

    Returns:
        Booleans of shape ``(batch,)``.
    """
    return (jnp.argmax(outputs, axis=-1).astype(labels.dtype) != labels) & says_a_class(outputs)


def classified_as(outputs: Shaped[Array, "batch classes"], targets: Int[Array, " batch"]) -> Bool[Array, " batch"]:
    """Say which images are given the class that a targeted attack wants.

    Args:
        outputs: logits, shape ``(batch, classes)``.
        targets: shape ``(batch,)``.

    Returns:
        Booleans of shape ``(batch,)``.
    """
    return (jnp.argmax(outputs, axis=-1).astype(targets.dtype) == targets) & says_a_class(outputs)


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


def says_a_class(outputs: Shaped[Array, "batch classes"]) -> Bool[Array, " batch"]:
    """Say which rows of outputs name a class: without NaN and plus infinity, and not of minus infinity alone.

    Args:
        outputs: logits, or decisions as integers or truth values, of which a row without a true one names no class.

    Returns:
        Booleans of shape ``(batch,)``.
    """
    if outputs.dtype == bool:
        return outputs.any(axis=-1)
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
        return (outputs > jnp.iinfo(outputs.dtype).min).any(axis=-1)  # as ``Defended`` marks images that are NaN
    return ~(jnp.isnan(outputs) | (outputs == jnp.inf)).any(axis=-1) & (outputs > -jnp.inf).any(axis=-1)


def proper(outputs: Any) -> Bool[Array, " batch"]:
    """Say of which images the outputs say something: logits name a class, anything else is neither NaN nor infinite.

    Args:
        outputs: what a target returned, every leaf with a leading batch axis.

    Returns:
        Booleans of shape ``(batch,)``.
    """
    if isinstance(outputs, jax.Array) and outputs.ndim == 2:
        return says_a_class(outputs)
    leaves = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(widened(outputs))]
    return functools.reduce(jnp.logical_and, [~(jnp.isnan(leaf) | (leaf == jnp.inf)).any(axis=1) for leaf in leaves])


def like_probabilities(outputs: Any) -> Bool[Array, " batch"]:
    """Say of which images the outputs are fractions that sum to one, as probabilities do.

    Args:
        outputs: what a target returned, every leaf with a leading batch axis.

    Returns:
        Booleans of shape ``(batch,)``.
    """
    if not _are_logits(outputs) or not jnp.issubdtype(outputs.dtype, jnp.floating):
        return jnp.zeros(jax.tree.leaves(outputs)[0].shape[:1], bool)
    wide, tolerance = widened(outputs), max(1e-3, 4 * float(jnp.finfo(outputs.dtype).eps))
    return (wide >= 0).all(axis=1) & (jnp.abs(wide.sum(axis=1) - 1) < tolerance)


def label_margin(outputs: Any, labels: Any) -> Float[Array, " batch"]:
    """Return the label's logit less the largest other: positive where the image is classified correctly.

    Args:
        outputs: logits of shape ``(batch, classes)``; anything else has no margin.
        labels: integers of shape ``(batch,)``; anything else has no margin.

    Returns:
        Margins of shape ``(batch,)``, NaN where there is none.
    """
    integers = isinstance(labels, jax.Array) and jnp.issubdtype(labels.dtype, jnp.integer) and labels.ndim == 1
    if _are_logits(outputs) and integers:
        return -margin(outputs, labels)
    return jnp.full(jax.tree.leaves(outputs)[0].shape[:1], jnp.nan, jnp.float32)


def _are_logits(outputs: Any) -> bool:
    return isinstance(outputs, jax.Array) and outputs.ndim == 2 and outputs.shape[1] > 1


def _of(logits: Array, labels: Array) -> Array:
    # One number and zeros, whose sum is exact: a gather and its derivative, a scatter, compile to several times that.
    own = jnp.where(_is_class(logits, labels), logits, jnp.zeros_like(logits)).sum(axis=-1)
    known = (labels >= 0) & (labels < logits.shape[-1])
    return jnp.where(known, own, jnp.full_like(own, jnp.nan))


def _is_class(logits: Array, labels: Array) -> Array:
    return jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)


def _others(logits: Array, labels: Array) -> Array:
    return jnp.where(_is_class(logits, labels), jnp.full_like(logits, -jnp.inf), logits)


def _all_others(logits: Array, labels: Array) -> Array:
    return jax.nn.logsumexp(_others(logits, labels), axis=-1)


def _largest_other(logits: Array, labels: Array) -> Array:
    return _others(logits, labels).max(axis=-1)
