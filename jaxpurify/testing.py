"""Checks for tests: the contract of purifiers, gradients against finite differences, and compilations counted."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import gradients
from jaxpurify import keys as _keys
from jaxpurify.images import TOLERANCE
from jaxpurify.models import sweep
from jaxpurify.purifiers.windows import SIDES, purify_in_windows, reach_of

# The image convention's figures: jit and eager, other batch sizes and wrapped purifiers agree to this.
_CLOSE = 1e-5
_KINDS = ("textured", "flat", "black", "white", "noisy")

_COMPILATION = "/jax/core/compile/backend_compile_duration"


def check_purifier(purifier: Any, *, key: Any = None, size: tuple[int, int] = (31, 45), channels: int = 3) -> None:
    """Check that a purifier keeps the contract of purifiers, on textured, flat, black, white and noisy images.

    - It is a pytree of numbers; unflattening never validates; it runs under ``jit``, and under ``vmap`` of every leaf.
    - Shape (unless ``changes_size``) and dtype are kept; outputs are finite and in [0, 1].
    - Same images and keys give the same bits; eager and jitted calls agree to 1e-5.
    - An image's result depends neither on its row nor on the other images, unless ``couples_images``: the same bits in
      any order and company, 1e-5 in a batch of another size.
    - A random one refuses a missing or raw key, and different keys give different images.
    - One with a ``reach`` gives in windows what it gives of the whole image, to 1e-5.
    - Gradients are finite everywhere, and straight-through, substitute and rematerialised compute what it computes.

    Where x64 is on, float64 images must stay float64 too.

    Args:
        purifier: an instance of a class under ``@jaxpurify.purifier``.
        key: one typed key; ``jax.random.key(0)`` by default.
        size: height and width of the images in pixels; odd by default, because borders go wrong there.
        channels: number of channels.

    Raises:
        AssertionError: naming the purifier and the property that does not hold.

    Source: our choice.

    Example:
        >>> import jaxpurify as jp
        >>> jp.testing.check_purifier(jp.purifiers.BitDepth(bits=3))
    """
    name = type(purifier).__name__
    _require(getattr(purifier, "is_purifier", False), name, "must be an instance of a class under @jaxpurify.purifier")
    _check_tree(name, purifier)
    images = _images(size, channels)
    key = _keys.check_key(jax.random.key(0) if key is None else key)
    keys = _keys.per_image(key, len(images)) if purifier.random else None
    eager, outputs = _check_outputs(name, purifier, images, keys)
    _check_keys(name, purifier, images, key, eager)
    if not purifier.couples_images:
        _check_independence(name, purifier, images, keys, outputs)
    _check_windows(name, purifier, channels)
    _check_sweep(name, purifier, images, keys, outputs)
    _check_gradients(name, purifier, images, keys, outputs)


def check_gradient(
    function: Callable, inputs: Any, *, tolerance: float = 1e-6, step: float = 1e-5, directions: int = 3
) -> None:
    """Check ``jax.grad`` against central finite differences in float64, along a few random directions.

    Args:
        function: of one argument; its outputs, any tree of arrays, are summed with random weights.
        inputs: any tree of float64 arrays, away from kinks by more than ``step``.
        tolerance: largest error relative to the slope along the direction (or to the norm of the gradient, where the
            direction happens to be flat).
        step: distance by which every entry moves to either side.
        directions: number of random directions; in each, every entry moves by plus or minus the step.

    Raises:
        AssertionError: naming the two slopes, if they differ.
        ValueError: if an input is not float64.

    Source: our choice.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> with jax.enable_x64(True):
        ...     check_gradient(jnp.sin, jnp.linspace(0.0, 1.0, 5))
    """
    if any(jnp.result_type(leaf) != np.float64 for leaf in jax.tree.leaves(inputs)):
        raise ValueError("check_gradient needs float64 inputs, expected them made inside `with jax.enable_x64(True):`")
    random = np.random.default_rng(0)
    shapes = jax.tree.leaves(jax.eval_shape(function, inputs))
    weights = [random.uniform(0.5, 1.5, leaf.shape) * random.choice([-1, 1], leaf.shape) for leaf in shapes]

    @jax.jit
    def value_and_gradient(values):
        def total(values):
            leaves = jax.tree.leaves(function(values))
            return sum((leaf * weight).sum() for leaf, weight in zip(leaves, weights, strict=True))

        return jax.value_and_grad(total)(values)

    gradient = value_and_gradient(inputs)[1]
    size = np.sqrt(sum(float(np.sum(np.square(leaf))) for leaf in jax.tree.leaves(gradient)))
    for number in range(directions):
        direction = jax.tree.map(lambda leaf: random.choice([-1.0, 1.0], np.shape(leaf)), inputs)
        ahead, behind = (
            float(value_and_gradient(jax.tree.map(lambda x, d, s=s: x + s * step * d, inputs, direction))[0])
            for s in (1, -1)
        )
        measured = (ahead - behind) / (2 * step)
        computed = sum(jax.tree.leaves(jax.tree.map(lambda g, d: float(np.sum(g * d)), gradient, direction)))
        if not abs(measured - computed) <= tolerance * max(abs(measured), abs(computed), size):
            raise AssertionError(
                f"the gradient's slope along direction {number} is {computed:.12g}, "
                f"expected {measured:.12g} from finite differences, within {tolerance:g}"
            )


class Compilations:
    """Programs compiled so far inside a ``count_compilations`` block.

    Attributes:
        names: names of the jitted functions, in order; operations outside ``jit`` have names of their own.
    """

    def __init__(self):
        self.names: list[str] = []

    def count(self, name: str | None = None) -> int:
        """Count the compilations.

        Args:
            name: name of a jitted function; all programs without.

        Returns:
            How often it was compiled.
        """
        return len(self.names) if name is None else self.names.count(name)


@contextlib.contextmanager
def count_compilations() -> Iterator[Compilations]:
    """Count what XLA compiles, by the names of the functions, while inside the ``with`` block.

    A program that JAX finds in its compilation cache on disk counts too: the count does not depend on that cache.

    Returns:
        A ``Compilations``, which keeps its count after the block.

    Source: JAX's monitoring events, which are also there where logging is off.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> double = jax.jit(lambda x: x + x)
        >>> with count_compilations() as compilations:
        ...     for size in (2, 3, 3):
        ...         _ = double(jnp.ones(size))
        >>> compilations.count("<lambda>")
        2
    """
    found = Compilations()

    def listen(event: str, duration_secs: float, **details: str | int) -> None:
        if event == _COMPILATION:
            program = str(details.get("fun_name", ""))
            found.names.append(program[program.find("(") + 1 : -1] if program.endswith(")") else program)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def _require(holds: Any, name: str, sentence: str) -> None:
    if not holds:
        raise AssertionError(f"{name} {sentence}")


@contextlib.contextmanager
def _working(name: str, sentence: str) -> Iterator[None]:
    """Turn whatever is raised inside into the sentence of the property."""
    try:
        yield
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        raise AssertionError(f"{name} {sentence}, but {type(error).__name__} was raised: {first}") from error


def _images(size, channels):
    """Return one image a kind, with 8-bit values as photographs have them."""
    random = np.random.default_rng(0)
    shape = (*size, channels)
    rows, columns = (np.arange(n) / max(n - 1, 1) for n in size)
    waves = 0.5 + 0.3 * np.sin(9 * rows)[:, None, None] * np.cos(7 * columns)[None, :, None]
    textured = np.broadcast_to(waves, shape) + random.normal(0, 0.05, shape)
    kinds = (textured, np.full(shape, 0.3), np.zeros(shape), np.ones(shape), random.uniform(0, 1, shape))
    return jnp.asarray(np.rint(np.stack(kinds).clip(0, 1) * 255) / 255, jnp.float32)


@jax.jit
def _run(purifier, images, keys):
    return purifier(images, keys)


_run_swept = jax.jit(jax.vmap(lambda purifier, images, keys: purifier(images, keys), in_axes=(0, None, None)))


def _same(first, second):
    # Compared as bits: a NaN equals itself here, and is reported by its own property.
    return np.array_equal(np.asarray(first), np.asarray(second), equal_nan=True)


def _distance(first, second):
    first, second = np.asarray(first), np.asarray(second)
    return np.inf if first.shape != second.shape else float(np.max(np.abs(first - second), initial=0))


def _check_tree(name, purifier):
    leaves, structure = jax.tree.flatten(purifier)
    for path, leaf in jax.tree_util.tree_leaves_with_path(purifier):
        number = isinstance(leaf, int | float | complex | np.number | np.ndarray | jax.Array)
        field = jax.tree_util.keystr(path)
        _require(number, name, f"must have numbers as leaves, got {field} = {leaf!r}: declare the field static")
    with _working(name, "must not validate when JAX unflattens it (validate in check(self), which construction calls)"):
        jax.tree.unflatten(structure, [object() for _ in leaves])
        rebuilt = jax.tree.unflatten(structure, leaves)
    again, same = jax.tree.flatten(rebuilt)
    identical = same == structure and all(a is b for a, b in zip(again, leaves, strict=True))  # type: ignore[operator]
    _require(identical, name, "must be the same after flattening and unflattening")


def _check_outputs(name, purifier, images, keys):
    with _working(name, f"must take images of shape {images.shape}"):
        outputs = purifier(images, keys)
        again = purifier(images, keys)
    with _working(name, "must work under jit"):
        jitted = _run(purifier, images, keys)
    kept = outputs.shape == images.shape or purifier.changes_size
    _require(kept, name, f"must keep the shape {images.shape} or set changes_size = True, got {outputs.shape}")
    channels = images.shape[3]
    _require(outputs.shape[3] == channels, name, f"must keep {channels} channels, got {outputs.shape[3]}")
    for dtype in {np.dtype(np.float32), jnp.result_type(float)}:  # float64 where x64 is on
        got = jax.eval_shape(purifier, jax.ShapeDtypeStruct(images.shape, dtype), keys).dtype
        _require(got == dtype, name, f"must keep the dtype of the images, {dtype}, got {got}")
    for kind, output in zip(_KINDS, np.asarray(outputs), strict=True):
        _require(np.isfinite(output).all(), name, f"must return finite values, got NaN or infinity for a {kind} image")
        low, high = output.min(), output.max()
        inside = low >= -TOLERANCE and high <= 1 + TOLERANCE
        _require(inside, name, f"must return values in [0, 1], got {low:.6g} to {high:.6g} for a {kind} image")
    _require(_same(outputs, again), name, "must return the same bits for the same images and keys")
    _require(_same(jitted, _run(purifier, images, keys)), name, "must return the same bits at every jitted call")
    distance = _distance(outputs, jitted)
    _require(distance <= _CLOSE, name, f"must agree to {_CLOSE:g} between eager and jitted calls, got {distance:.3g}")
    return outputs, jitted


def _check_keys(name, purifier, images, key, outputs):
    raw = jax.random.key_data(jax.random.key(0))
    with _working(name, "must take one typed key"):
        single = purifier(images, key)
    _require(_same(single, outputs), name, "must give image i of the batch fold_in(key, i) where one key is passed")
    _require(_refuses(purifier, images, raw), name, "must refuse a raw uint32 key")
    if purifier.random:
        _require(_refuses(purifier, images, None), name, "must refuse to run without a key, because it is random")
        wrong = jax.random.split(key, len(images) + 1)
        _require(_refuses(purifier, images, wrong), name, "must refuse another number of keys than images")
        other = purifier(images, jax.random.fold_in(key, len(images)))
        _require(not _same(other, outputs), name, "must differ between keys, because it says that it is random")


def _refuses(purifier, images, key):
    try:
        jax.eval_shape(purifier, images, key)
    except (TypeError, ValueError):
        return True
    return False


def _check_independence(name, purifier, images, keys, outputs):
    remedy = "set couples_images = True on the class if the paper has it so"

    def run(rows, others=None):
        part = images[rows] if others is None else jnp.concatenate([images[rows], others])
        own = None if keys is None else keys[rows] if others is None else keys
        return _run(purifier, part, own)

    few = np.arange(2)
    sentence = f"must give an image the same bits whatever other images pad the batch: {remedy}"
    _require(_same(run(few, 1 - images[2:])[:2], outputs[:2]), name, sentence)
    order = np.array([3, 0, 4, 2, 1])
    sentence = f"must give an image the same bits in any row of the batch: {remedy}"
    _require(_same(run(order), outputs[order]), name, sentence)
    alone = np.concatenate([np.asarray(run(np.array([row]))) for row in range(len(images))])
    distance = _distance(alone, outputs)
    sentence = f"must agree to {_CLOSE:g} between an image alone and in a batch, got {distance:.3g}: {remedy}"
    _require(distance <= _CLOSE, name, sentence)


@jax.jit
def _run_filled(purifier, images, sizes):
    return purifier.purify_filled(images, sizes)


def _check_windows(name, purifier, channels):
    reach = reach_of(purifier)
    if reach is None:
        return
    # A little more than one window of the smallest size of use, each way.
    side = 128 if hasattr(purifier, "aligned") else min(side for side in SIDES if side >= 4 * reach)
    noise = np.random.default_rng(0).random((side + 3, side + 8, channels), np.float32)

    def run(batch, sizes):
        return np.asarray(_run(purifier, batch, None) if sizes is None else _run_filled(purifier, batch, sizes))

    with _working(name, "must work in windows, because it has a reach"):
        (pieced,) = purify_in_windows(purifier, [noise], run, most=4)
    distance = _distance(pieced, _run(purifier, noise[None], None)[0])
    sentence = f"must give in windows what it gives of the whole image, to {_CLOSE:g}, got {distance:.3g}"
    _require(distance <= _CLOSE, name, f"{sentence}: is its reach more than {reach} pixels?")


def _check_sweep(name, purifier, images, keys, outputs):
    leaves = jax.tree_util.tree_leaves_with_path(purifier)
    if not leaves:
        return
    # Sweeping one leaf gives every leaf the new axis, so one program stands for all of them.
    first = "__".join(str(getattr(p, "name", getattr(p, "idx", getattr(p, "key", p)))) for p in leaves[0][0])
    value = leaves[0][1]
    # Another value too, so that one which does not reach the swept purifier is noticed.
    other = 0.9 * value if isinstance(value, float) else value
    values, structure = jax.tree.flatten(purifier)
    changed = _run(jax.tree.unflatten(structure, [other, *values[1:]]), images, keys)
    with _working(name, "must work under vmap of its leaves, as sweep has it"):
        swept = sweep(purifier, **{first: jnp.stack([jnp.asarray(value), jnp.asarray(other)])})
        both = _run_swept(swept, images, keys)
    distance = max(_distance(one, expected) for one, expected in zip(both, (outputs, changed), strict=True))
    _require(distance <= _CLOSE, name, f"must agree to {_CLOSE:g} under vmap of its leaves, got {distance:.3g}")


@jax.jit
def _pull(purifier, images, keys, cotangent):
    """Return outputs, and gradients with respect to the images and to the real leaves."""
    outputs, pull = jax.vjp(lambda p, x: p(x, keys), purifier, images)
    to_purifier, to_images = pull(cotangent)
    return outputs, to_images, [g for g in jax.tree.leaves(to_purifier) if jnp.issubdtype(g.dtype, jnp.inexact)]


def _check_gradients(name, purifier, images, keys, outputs):
    signs = np.random.default_rng(1).choice([-1.0, 1.0], outputs.shape)
    cotangent = jnp.asarray(signs, outputs.dtype)
    with _working(name, "must be differentiable"):
        _, exact, to_leaves = _pull(purifier, images, keys, cotangent)
    for kind, gradient in zip(_KINDS, np.asarray(exact), strict=True):
        _require(
            np.isfinite(gradient).all(), name, f"must have a finite gradient, got NaN or infinity at a {kind} image"
        )
    finite = all(np.isfinite(gradient).all() for gradient in to_leaves)
    _require(finite, name, "must have finite gradients with respect to its leaves")

    def wrapped(wrapper):
        label = wrapper.__name__
        with _working(name, f"must work inside {label}"):
            forward, to_images, to_leaves = _pull(wrapper(purifier), images, keys, cotangent)
        distance = _distance(forward, outputs)
        _require(distance <= _CLOSE, name, f"must compute the same inside {label}, got a difference of {distance:.3g}")
        return np.asarray(to_images), to_leaves

    through, to_leaves = wrapped(gradients.straight_through)
    if outputs.shape == images.shape:
        _require(_same(through, cotangent), name, "must have the identity's gradient inside straight_through")
    zero = not any(np.any(gradient) for gradient in to_leaves)
    _require(zero, name, "must give its own leaves no gradient inside straight_through")
    again, _ = wrapped(gradients.rematerialised)
    close = _distance(again, exact) <= _CLOSE * np.max(np.abs(exact), initial=0)
    _require(close, name, "must have the plain gradient inside rematerialised")
    if gradients.has_surrogate(purifier):
        stand_in, _ = wrapped(gradients.substitute)
        _require(np.isfinite(stand_in).all(), name, "must have a finite gradient inside substitute")
