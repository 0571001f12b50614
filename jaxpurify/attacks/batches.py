"""Batches of few sizes, so that few programs are compiled however many images there are or still stand."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify.attacks.result import Problem


def capped(batch: int, count: int, devices: int) -> int:
    """Return a batch size that is not far beyond the number of images, to which batches are filled up.

    Args:
        batch: images in each device's program, as the caller wants it.
        count: number of images.
        devices: number of devices.

    Returns:
        At most each device's share of the images, or 128 where that is more, so that few sizes are compiled.
    """
    return min(batch, max(128, -(-count // devices)))


def bucket_sizes(batch: int, devices: int = 1) -> tuple[int, ...]:
    """Return the sizes, at most four, to which a shrinking batch is compacted.

    Args:
        batch: images in a full batch.
        devices: number of devices, of which every size is a multiple.

    Returns:
        Sizes in descending order: the whole, three quarters, three eighths and an eighth. Our choice: the first steps
        of a strong attack remove most images, and the later ones matter where a quarter or half has gone.
    """
    sizes = {devices * -(-batch * eighths // (8 * devices)) for eighths in (8, 6, 3, 1)}
    return tuple(sorted(sizes, reverse=True))


def in_batches(problem: Problem, size: int) -> Iterator[tuple[np.ndarray, Problem]]:
    """Yield batches of one size, the last one filled up with copies.

    Args:
        problem: what is attacked.
        size: images in a batch.

    Yields:
        Row numbers, and the problem of exactly ``size`` images that begins with these rows.
    """
    count = problem.images.shape[0]
    problem = jax.tree.map(lambda leaf: leaf if _is_key(leaf) else np.asarray(leaf), problem)
    for first in range(0, count, size):
        rows = np.arange(first, min(first + size, count))
        yield rows, problem if len(rows) == size == count else take(problem, np.resize(rows, size))


def in_buckets(problem: Problem, sizes: Sequence[int]) -> Iterator[tuple[np.ndarray, Problem]]:
    """Yield batches of the sizes that few programs are compiled for: full ones first, the rest with little padding.

    Args:
        problem: what is attacked.
        sizes: the sizes, in descending order.

    Yields:
        Row numbers, and the problem of one of the sizes that begins with these rows.
    """
    count, first = problem.images.shape[0], 0
    problem = jax.tree.map(lambda leaf: leaf if _is_key(leaf) else np.asarray(leaf), problem)
    for size in pieces(count, tuple(sizes)):
        rows = np.arange(first, min(first + size, count))
        yield rows, problem if len(rows) == size == count else take(problem, np.resize(rows, size))
        first += size


def pieces(count: int, sizes: tuple[int, ...]) -> list[int]:
    """Divide images into batches of given sizes: on the CPU with the least padding, elsewhere into the fewest batches.

    Args:
        count: number of images.
        sizes: the sizes, in descending order.

    Returns:
        Sizes that add up to at least the count. Our choice: on the CPU time grows with the size of a batch, on
        accelerators hardly.
    """
    if count <= 0:
        return []
    if count >= sizes[0]:
        return [sizes[0], *pieces(count - sizes[0], sizes)]
    whole = [min(size for size in sizes if size >= count)]
    below = [size for size in sizes if size < count]
    if not below or jax.default_backend() != "cpu":
        return whole
    return min(whole, [below[0], *pieces(count - below[0], sizes)], key=sum)


def take(tree: Any, rows: np.ndarray) -> Any:
    """Return rows of arrays.

    Args:
        tree: arrays with a leading batch axis.
        rows: row numbers.

    Returns:
        The same tree; but for keys, its arrays are in host memory.
    """
    return jax.tree.map(lambda leaf: _keys_of(leaf, rows) if _is_key(leaf) else np.asarray(leaf)[rows], tree)


def _keys_of(keys: Any, rows: np.ndarray) -> Any:
    # Gathered on the host: on the device a program would be compiled for every number of rows.
    return jax.random.wrap_key_data(np.asarray(jax.random.key_data(keys))[rows], impl=jax.random.key_impl(keys))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
