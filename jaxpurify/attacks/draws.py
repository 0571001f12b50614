"""What a search sees of a target: on which draws of a random one, losses averaged over them, and their gradients."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpurify import keys as _keys
from jaxpurify.attacks.result import Problem
from jaxpurify.attacks.tracing import traced
from jaxpurify.models import attribute
from jaxpurify.precision import pulled, widened


def draws_of(attack: Any, target: Any) -> int:
    """Return the draws that one evaluation of a target averages over.

    Args:
        attack: the attack, with a field ``eot``: the expectation over keys, or None for one draw.
        target: the target; a deterministic one is evaluated once.

    Returns:
        Their number.
    """
    return attack.eot.samples if attack.eot is not None and attribute(target, "random") else 1


def search_keys(attack: Any, problem: Problem, restart: Any, step: Any) -> Any:
    """Return the keys of one step of a search: the same at every step where the expectation's are frozen.

    Args:
        attack: the attack, with a field ``eot``.
        problem: the images' keys, or None.
        restart: number of the restart.
        step: number of the step.

    Returns:
        Typed keys of shape ``(batch,)``, or None.
    """
    if problem.keys is None:
        return None
    frozen = attack.eot is not None and attack.eot.randomness == "frozen"
    return _keys.stream(problem.keys, "search", restart=restart, step=jnp.zeros_like(step) if frozen else step)


def averaged(attack: Any, target: Any, images: Any, keys: Any, loss: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Evaluate a target, averaging over draws where it is random and the attack has an expectation.

    Args:
        attack: the attack, with a field ``eot``.
        target: what is evaluated.
        images: shape ``(batch, height, width, channel)``.
        keys: typed keys of shape ``(batch,)``; a deterministic target gets none.
        loss: outputs to losses of shape ``(batch,)``, or to a tree of such arrays.

    Returns:
        The losses and the outputs.
    """
    random = attribute(target, "random")
    if random and attack.eot is not None:
        return attack.eot(target, images, keys, loss)
    outputs = target(images, keys if random else None)
    return loss(outputs), outputs


def loss_and_gradient(
    attack: Any, target: Any, images: Any, keys: Any, loss: Callable[[Any], Any], *, shown: Callable | None = None
) -> tuple[Any, Any, Any]:
    """Evaluate a target, a loss of its outputs, and the loss's gradient to the images, at any scale and precision.

    On the way back, each image's gradient begins at the outputs with a size of about one: the true one may be so small
    that nothing of it would pass a model in half precision. The gradient returned is the true one.

    Args:
        attack: the attack, with a field ``eot``.
        target: what is evaluated.
        images: shape ``(batch, height, width, channel)``.
        keys: typed keys of shape ``(batch,)``, or None.
        loss: outputs to losses of shape ``(batch,)``.
        shown: images to what the target is shown, itself differentiated; None shows them as they are.

    Returns:
        The outputs, the losses, and the gradient of each image's own loss.
    """

    def steep(outputs):
        fixed = jax.lax.stop_gradient(outputs)
        values, back = jax.vjp(loss, fixed)
        slopes = [
            leaf for leaf in jax.tree.leaves(back(jnp.ones_like(values))) if jnp.issubdtype(leaf.dtype, jnp.floating)
        ]
        sizes = [jnp.abs(slope.reshape(slope.shape[0], -1)).max(axis=1) for slope in widened(slopes)]
        return loss(outputs), functools.reduce(jnp.maximum, sizes).astype(images.dtype)

    def objective(moved):
        moved = moved if shown is None else shown(moved)
        (values, steepness), outputs = averaged(attack, target, moved, keys, steep)
        return values.astype(images.dtype), (values, outputs, jax.lax.stop_gradient(steepness))

    _, pull, (values, outputs, steepness) = jax.vjp(objective, images, has_aux=True)
    gradient = pulled(lambda weights: pull(weights)[0], steepness, half=traced(target, images).half)
    return outputs, values, gradient
