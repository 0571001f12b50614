"""Loops over images and over passes: the first sized for the cache, the second for the memory of its gradient."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array


def image_by_image(function: Callable[..., Any], *arrays: Array) -> Any:
    """Apply a function of one image to every image of a batch: in turn on the CPU, all at once elsewhere.

    A filter that passes over its image many times runs several times faster on the CPU while that image stays in the
    cache. The arithmetic of an image is the same either way.

    Args:
        function: of one entry of each of the arrays.
        arrays: images, and whatever else there is one of for each, with one leading axis of ``batch``.

    Returns:
        What the function returns, with a leading axis of ``batch``.

    Source: our choice, as measured.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda row: function(*row), arrays)
    return jax.vmap(function)(*arrays)


def repeat(step: Callable[[Any], Any], state: Any, *, times: int) -> Any:
    """Apply a step several times, in one loop whose gradient keeps few states in memory.

    Going backward, some ``2 √times`` states are kept and every step is computed up to twice more.

    Args:
        step: state to state, of the same shapes and dtypes.
        state: any tree of arrays.
        times: number of steps, at least 0.

    Returns:
        The state after the last step.

    Source: the square-root rule of Chen et al. 2016 (arXiv 1604.06174), as a loop within a loop.
    """
    root = math.isqrt(times)
    # A length that leaves no remainder saves compiling the step once more.
    whole = [length for length in range(root // 2 + 1, 2 * root + 1) if times % length == 0]
    length = whole[0] if whole else max(root, 1)
    step = jax.checkpoint(step, prevent_cse=False)  # type: ignore[attr-defined]

    def run(state, length):
        return jax.lax.scan(lambda state, _: (step(state), None), state, None, length=length)[0]

    segment = jax.checkpoint(functools.partial(run, length=length), prevent_cse=False)  # type: ignore[attr-defined]
    state = jax.lax.scan(lambda state, _: (segment(state), None), state, None, length=times // length)[0]
    return run(state, times % length) if times % length else state
