"""The draws of a random target that a search sees: how many, on which keys, and what is averaged over them."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxpurify import keys as _keys
from jaxpurify.attacks.result import Problem
from jaxpurify.models import attribute


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
        loss: outputs to losses of shape ``(batch,)``.

    Returns:
        The losses and the outputs.
    """
    random = attribute(target, "random")
    if random and attack.eot is not None:
        return attack.eot(target, images, keys, loss)
    outputs = target(images, keys if random else None)
    return loss(outputs), outputs
