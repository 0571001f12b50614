"""Typed random keys, one an image, so that an image keeps its randomness in any row, batch or device."""

from typing import Any

import jax
import jax.numpy as jnp

# The numbers are part of the results: changing one changes every random figure.
PURPOSES = {"start": 0, "search": 1, "select": 2, "score": 3}


def check_key(key: Any, *, name: str = "key") -> jax.Array:
    """Return a typed key or array of typed keys, refusing everything else.

    Args:
        key: what the caller gave.
        name: the argument's name, for the message.

    Returns:
        The key, unchanged.

    Raises:
        TypeError: if it is a raw ``uint32`` key or no key at all.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    if dtype is not None and dtype == jnp.uint32:
        raise TypeError(
            f"{name} must be a typed key such as jax.random.key(0), got a raw uint32 array of shape {key.shape}: "
            "use jax.random.key in the place of jax.random.PRNGKey, or jax.random.wrap_key_data"
        )
    raise TypeError(f"{name} must be a typed key such as jax.random.key(0), got {type(key).__name__}")


def check_single(key: Any) -> jax.Array:
    """Return one typed key, refusing several.

    Args:
        key: what the caller gave.

    Returns:
        The key, unchanged.

    Raises:
        TypeError: if it is a raw key or none at all.
        ValueError: if it is an array of keys.
    """
    key = check_key(key)
    if key.ndim:
        raise ValueError(f"key must be one typed key, got an array of shape {key.shape}: each image is given its own")
    return key


def per_image(key: Any, count: int, *, name: str = "key") -> jax.Array:
    """Return one key an image: image i gets ``fold_in(key, i)``, an array of keys is taken as it is.

    Args:
        key: one typed key, or an array of ``count`` typed keys.
        count: number of images in the batch.
        name: the argument's name, for messages.

    Returns:
        Typed keys of shape ``(count,)``.

    Raises:
        TypeError: if it is no typed key.
        ValueError: if it is an array of another length.
    """
    key = check_key(key, name=name)
    if key.ndim == 0:
        return fold_each(key, jnp.arange(count))
    if key.shape != (count,):
        raise ValueError(f"{name} must be one typed key or {count} of them (one an image), got shape {key.shape}")
    return key


def fold_each(key: jax.Array, numbers: Any) -> jax.Array:
    """Return one key a number: key with that number folded in.

    Args:
        key: one typed key.
        numbers: integers of shape ``(batch,)``, such as rows of a data set.

    Returns:
        Typed keys of shape ``(batch,)``.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.asarray(numbers, dtype=jnp.uint32))


def fold(keys: jax.Array, *numbers: Any) -> jax.Array:
    """Fold numbers into every key of an array, in turn.

    Args:
        keys: typed keys of shape ``(batch,)``.
        numbers: integers, traced or not.

    Returns:
        Typed keys of shape ``(batch,)``.
    """
    for number in numbers:
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, jnp.asarray(number, dtype=jnp.uint32))
    return keys


def stream(keys: jax.Array, purpose: str, *, restart: Any = 0, step: Any = 0, draw: Any = 0) -> jax.Array:
    """Return the keys of one draw: the stream is (purpose, image, restart, step, draw).

    Args:
        keys: one typed key an image, shape ``(batch,)``.
        purpose: ``"start"``, ``"search"``, ``"select"`` or ``"score"``; what is seen under one is
            never met under another.
        restart: number of the restart.
        step: number of the step.
        draw: number of the draw.

    Returns:
        Typed keys of shape ``(batch,)``.
    """
    return fold(keys, PURPOSES[purpose], restart, step, draw)
