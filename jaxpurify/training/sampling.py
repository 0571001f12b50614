"""Which examples make which batch: a function of the step alone, so that a run goes on as if it had not stopped."""

from collections.abc import Sequence

import jax
import numpy as np


def seed_of(key: jax.Array) -> tuple[int, ...]:
    """Return the numbers of a key, for NumPy's generators.

    Args:
        key: one typed key.

    Returns:
        Whole numbers.
    """
    return tuple(int(word) for word in np.asarray(jax.random.key_data(key)).ravel())


def generator(seed: Sequence[int], *numbers: int) -> np.random.Generator:
    """Return the generator of one purpose.

    Args:
        seed: what ``seed_of`` returned.
        numbers: the purpose, the step and the like.

    Returns:
        The same stream for the same numbers.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([*seed, *numbers])))


ORDER, CROPS, HELD_OUT = range(3)


def rows(seed: Sequence[int], *, first: int, count: int, total: int) -> np.ndarray:
    """Return the examples at some positions of an endless sequence of shuffled epochs.

    Args:
        seed: what ``seed_of`` returned.
        first: the first position.
        count: how many.
        total: examples in an epoch.

    Returns:
        Row numbers ``(count,)``; every epoch has each row once.
    """
    epochs = range(first // total, (first + count - 1) // total + 1)
    shuffled = np.concatenate([generator(seed, ORDER, epoch).permutation(total) for epoch in epochs])
    return shuffled[first % total :][:count]
