"""Loops of forward passes within one compiled call."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpurify.models import attribute


def loop(target: Any, count: Any, body: Callable[[Any, Any], Any], state: Any, *, most: int | None = None) -> Any:
    """Repeat forward passes of a target within one compiled call, on the device.

    Args:
        target: what is called in the body; where it calls back to the host, the loop is unrolled on accelerators, since
            a callback in a device loop can stall (those of ``interop`` on the CPU do not).
        count: number of repetitions; it may be traced where ``most`` is given.
        body: ``(number, state)`` to the next state; number is a uint32.
        state: the first state.
        most: the largest number of repetitions, by default the count.

    Returns:
        The last state.
    """
    if not attribute(target, "calls_back") or jax.default_backend() == "cpu":
        return jax.lax.fori_loop(jnp.uint32(0), jnp.asarray(count, jnp.uint32), body, state)
    for number in range(int(count) if most is None else most):
        state = jax.lax.cond(number < count, functools.partial(body, jnp.uint32(number)), lambda state: state, state)
    return state
