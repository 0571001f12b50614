"""What an evaluation takes for granted of a model: one answer for an image, whatever else is in its batch.

A model that couples the images of a batch, or draws without taking a key, makes every figure depend on ``batch_size``
or on chance. A few forward passes of one compiled shape, and a second trace, find it out.
"""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import Literal

from jaxpurify.models import attribute
from jaxpurify.probing import (
    ROWS,
    Remembered,
    eight,
    eight_keys,
    forward,
    holds_own_code,
    is_float,
    is_program,
    rounding,
)

# In roundings of an output and of what is typical of its row. In one compiled shape models mostly give the very same
# bits, in half precision too; libraries that treat the last rows of a matrix in another way differ by a few.
_ROUNDINGS = 32
_LARGEST_TOLERANCE = 1 / 32
# What is found all the same is compared with the answers to images that were moved by one rounding: a difference of
# large numbers, such as one logit or a distance of probabilities, may be small and as uncertain as they are.
_LARGEST_RESPONSE = 1e-4  # of by how much an entry differs among images
_KEPT = 3
_TRACES = 12
_SECONDS = 1.0
_MANY = 4 * ROWS
_MANY_PIXELS = 2**24  # in one call at most
# Another compiled shape may have other kernels, which round otherwise: on accelerators down to eleven bits.
_OTHER_SHAPE = {"cpu": 1e-3}
_OTHER_SHAPE_ELSEWHERE = 1e-2


def check_independence(model: Any, images: Any, key: Any = None, *, name: str = "model") -> None:
    """Refuse a model whose answer for an image depends on the rest of its batch, or changes when it is asked again.

    The model is asked five times about eight images (fewer are completed by altered copies): twice the same, in the
    reverse order, with all images but three replaced, and with one image in all rows; keys travel with their images.
    Then it is asked twice about 32 rows (of up to 724 pixels to a side): the eight images four times over, and the
    first of them among others. It is also traced again, up to twelve times for code from outside this package, because
    what a function draws on the host or counts in Python is fixed when it is compiled. What was found to hold is
    remembered for the same structure, weights and shape. Nothing is checked while the model or the images are being
    traced.

    Not found: coupling that begins above 32 images, what a model does with a number of images other than 8 and 32, and
    what is drawn so seldom that twelve traces, or those of one second, are alike.

    Args:
        model: a target, classifier or purifier: a pytree callable ``(images, key=None) -> outputs``.
        images: some clean images, shape ``(batch, height, width, channel)``; the first eight are looked at.
        key: a typed key, or one per image, for a random model; ``jax.random.key(0)`` by default.
        name: what the message calls the model.

    Raises:
        ValueError: if the model answers otherwise when asked or traced again, or, unless it says
            ``couples_images = True``, if an image's outputs depend on the other images or on its place among them.

    Source: our choice.
    """
    _CHECKED.recall(model, images, functools.partial(_check, model, images, key, name))


def _check(model: Any, images: Any, key: Any, name: str) -> bool:
    rows, keys = eight(images), eight_keys(model, images, key)
    _check_traces(model, rows, keys, name)
    epsilon = rounding(model, rows, keys)
    tolerance = min(_ROUNDINGS * epsilon, _LARGEST_TOLERANCE)

    def ask(which, images=rows):
        return jax.tree.map(np.asarray, forward(model, images[which], None if keys is None else keys[which]))

    @functools.cache
    def response():
        signs = np.random.default_rng(1).choice(np.asarray([-1, 1], rows.dtype), rows.shape)
        return jax.tree.map(_response, ask(everything, rows + rows * signs * rows.dtype.type(epsilon)), first, spread)

    def require(found, expected, sentence):
        difference = _difference(found, expected, spread, tolerance)
        if difference is not None:
            difference = _difference(found, expected, spread, tolerance, response())
        if difference is not None:
            raise ValueError(sentence.format(name, difference))

    everything = np.arange(ROWS)
    first = ask(everything)
    for leaf in jax.tree.leaves(first):
        if leaf.shape[:1] != (ROWS,):
            raise ValueError(
                f"{name} must return outputs with one row per image, got shape {leaf.shape} for {ROWS} images: a model "
                "of single images? pass batched=False"
            )
    spread = jax.tree.map(_spread, first)
    require(
        ask(everything),
        first,
        "{} must answer the same images alike, got outputs that change by {:.2g} when it is asked again: switch "
        "dropout and other hidden randomness off, or take a key and draw with jax.random",
    )
    if attribute(model, "couples_images"):
        return True
    sentence = (
        "{} must treat each image by itself, got outputs of an image that change by {:.2g} with the other images of "
        "the batch or its place among them: switch batch statistics and dropout off (evaluation mode, "
        "track_running_stats=True), or set couples_images = True on a purifier that is meant so"
    )
    require(_rows(ask(everything[::-1]), everything[::-1]), first, sentence)
    # The new neighbours are nearly the same, so that statistics of the batch move far; the first of them is pale, so
    # that a maximum over the batch is never its own.
    generator = np.random.default_rng(0)
    pattern, noise = generator.integers(2, size=rows.shape[1:]), generator.uniform(size=rows.shape)
    others = np.concatenate([rows[:_KEPT], (0.8 * pattern + 0.2 * noise)[_KEPT:].astype(rows.dtype)])
    others[_KEPT] = 0.4 + 0.2 * noise[_KEPT]
    among, kept = ask(everything, others), everything[:_KEPT]
    require(_rows(among, kept), _rows(first, kept), sentence)
    pale = np.full(ROWS, _KEPT)
    require(ask(pale, others), _rows(among, pale), sentence)
    # Groups of 16 or 32 images, and what is done to large batches alone, are seen in large batches alone.
    if _MANY * np.prod(rows.shape[1:3]) > _MANY_PIXELS:
        return True
    many, alone = np.arange(_MANY) % ROWS, np.where(np.arange(_MANY) > 0, _KEPT + np.arange(_MANY) % (ROWS - _KEPT), 0)
    large = ask(many)
    require(large, _rows(large, many), sentence)
    require(_rows(ask(alone, others), [0]), _rows(large, [0]), sentence)
    difference = _difference_of_most(_rows(large, everything), first, spread, tolerance)
    if difference is not None:
        raise ValueError(
            f"{name} must treat each image by itself, got outputs that change by {difference:.2g} with the number of "
            f"images, {_MANY} or {ROWS}: remove what depends on the size of the batch"
        )
    return True


def _rows(outputs: Any, which: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[which], outputs)


def _check_traces(model: Any, rows: Any, keys: Any, name: str) -> None:
    """Refuse what makes another program of the same call, or changes itself."""
    # A draw among few may come out the same twice.
    most, until = _TRACES if holds_own_code(model) else 1, time.monotonic() + _SECONDS
    for number in range(most):
        if number and time.monotonic() > until:
            return
        try:
            program = forward.trace(model, rows, keys).jaxpr
            # Other metadata is another context, in which functions that the model has compiled are traced again too.
            with set_xla_metadata(jaxpurify=f"trace {number + 1}"):
                again = forward.trace(model, rows, keys).jaxpr
        except Exception as error:
            if type(error).__name__ not in ("TraceContextError", "UnexpectedTracerError"):
                raise
            raise ValueError(
                f"{name} must change nothing of its own when it is called, got one that does: is it in training mode? "
                "switch that off, and update statistics and counters outside of the call"
            ) from error
        if not _same_program(program, again):
            raise ValueError(
                f"{name} must be the same function whenever it is called, got another program when it was traced "
                "again: does it draw from NumPy or Python's random, or count its calls? take a key and draw with "
                "jax.random"
            )


def _same_program(first: Any, second: Any) -> bool:
    """Compare what two programs compute and the numbers in them; functions and names in them have no say."""
    constants = [getattr(program, "consts", ()) for program in (first, second)]
    if not _all_same(_same_value, *constants):
        return False
    first, second = (getattr(program, "jaxpr", program) for program in (first, second))
    # Variables are equal where they were met in the same place.
    numbers: tuple[dict, dict] = ({}, {})

    def same_atom(one, other):
        if isinstance(one, Literal) or isinstance(other, Literal):
            both = isinstance(one, Literal) and isinstance(other, Literal)
            return both and _same_value(one.val, other.val)
        places = [known.setdefault(atom, len(known)) for known, atom in zip(numbers, (one, other), strict=True)]
        return places[0] == places[1] and _type(one) == _type(other)

    def same_equation(one, other):
        return (
            one.primitive.name == other.primitive.name
            and _all_same(same_atom, one.invars, other.invars)
            and _all_same(same_atom, one.outvars, other.outvars)
            and _same_value(one.params, other.params)
        )

    return (
        _all_same(same_atom, [*first.constvars, *first.invars], [*second.constvars, *second.invars])
        and _all_same(same_equation, first.eqns, second.eqns)
        and _all_same(same_atom, first.outvars, second.outvars)
    )


def _type(atom: Any) -> tuple:
    return getattr(atom.aval, "shape", None), getattr(atom.aval, "dtype", None)


def _all_same(same: Callable, first: Any, second: Any) -> bool:
    return len(first) == len(second) and all(same(*pair) for pair in zip(first, second, strict=True))


def _same_value(first: Any, second: Any) -> bool:
    if first is second:
        return True
    if is_program(first):
        return is_program(second) and _same_program(first, second)
    if isinstance(first, dict):
        # Functions within cannot be compared: each trace makes them anew.
        return first.keys() == second.keys() and all(_same_value(first[name], second[name]) for name in first)
    if isinstance(first, tuple | list):
        return isinstance(second, tuple | list) and _all_same(_same_value, first, second)
    if isinstance(first, bool | int | float | complex | str | np.generic | np.ndarray | jax.Array):
        return type(first) is type(second) and _bits(first) == _bits(second)
    return True


def _bits(value: Any) -> tuple:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    return array.shape, array.dtype, array.tobytes()


def _spread(leaf: np.ndarray) -> np.ndarray:
    """Return by how much each entry differs among images, infinity throughout where none does."""
    values = _flat(leaf)
    with np.errstate(invalid="ignore"):
        lowest = np.where(np.isfinite(values), values, np.inf).min(axis=0)
        spread = np.where(np.isfinite(values), values, -np.inf).max(axis=0) - lowest
    spread = np.where(np.isfinite(spread), spread, 0.0)
    return spread if spread.any() else np.full_like(spread, np.inf)


def _response(moved: Any, first: Any, spread: np.ndarray) -> np.ndarray:
    """Return by how much each entry changes, in half of the images at least, where the images change by a rounding."""
    if not is_float(np.asarray(first).dtype):
        return np.zeros_like(spread)
    with np.errstate(invalid="ignore"):
        apart = np.abs(_flat(moved) - _flat(first))
    typical = np.median(np.where(np.isfinite(apart), apart, 0.0), axis=0)
    return np.minimum(_ROUNDINGS * typical, _LARGEST_RESPONSE * spread)


def _difference(found: Any, expected: Any, spread: Any, tolerance: float, response: Any = None) -> float | None:
    """Return the largest difference of two outputs that is beyond the tolerance, None if there is none.

    An entry may change by its own roundings and by those of what is typical of its row: the median size, that of an
    entry being no more than it differs among images. So one large entry, or most of them, such as the logits of masked
    classes, excuse no other. Where half of a row is nearly zero, as in an image on black, up to one is typical. Where
    ``response`` is given, an entry may change by that too.
    """
    largest = None
    compared = list(_compared(found, expected, spread, tolerance))
    responses = [0.0] * len(compared) if response is None else jax.tree.leaves(response)
    for (apart, allowed), more in zip(compared, responses, strict=True):
        excess = ~(apart <= allowed + more)
        if excess.any():
            largest = max(float(apart[excess].max()), largest or 0.0)
    return largest


def _difference_of_most(found: Any, expected: Any, spread: Any, tolerance: float) -> float | None:
    """Return the median over images of the largest difference, where most changed by more than other kernels explain.

    Another rounding may turn a pixel that is quantised, or a decision, of an image or two.
    """
    of_shape = _OTHER_SHAPE.get(jax.default_backend(), _OTHER_SHAPE_ELSEWHERE)
    largest = None
    for apart, allowed in _compared(found, expected, spread, tolerance + of_shape):
        changed = np.any(apart > allowed, axis=1)
        if 2 * changed.sum() > changed.size:
            largest = max(float(np.median(apart[changed].max(axis=1))), largest or 0.0)
    return largest


def _compared(found: Any, expected: Any, spread: Any, tolerance: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield by how much the entries of each output differ, and by how much they may."""
    for leaf, other, varies in zip(*map(jax.tree.leaves, (found, expected, spread)), strict=True):
        one, two = _flat(leaf), _flat(other)
        with np.errstate(invalid="ignore"):
            apart = np.where((one == two) | (np.isnan(one) & np.isnan(two)), 0.0, np.abs(one - two))
        apart = np.where(np.isnan(apart), np.inf, apart)
        size = np.where(np.isfinite(two), np.abs(two), 0.0)
        typical = np.minimum(size, varies)
        largest = typical.max(axis=1, keepdims=True, initial=0.0)
        middle = np.median(typical, axis=1, keepdims=True) if typical.shape[1] else largest
        allowed = (tolerance if is_float(np.asarray(other).dtype) else 0.0) * (
            size + np.maximum(middle, np.minimum(largest, 1.0))
        )
        yield apart, allowed


def _flat(leaf: Any) -> np.ndarray:
    return np.asarray(leaf).reshape(len(leaf), -1).astype(np.float64)


_CHECKED = Remembered()
