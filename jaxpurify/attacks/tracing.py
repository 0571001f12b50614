"""What a target is, found by tracing it once a structure: its outputs, and through what precision gradients pass."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import keys as _keys
from jaxpurify.models import attribute
from jaxpurify.outputs import check_logits
from jaxpurify.probing import equations, narrowest


class Traced(NamedTuple):
    """A target as its program shows it.

    Attributes:
        batch: number of images that it was traced with.
        outputs: shapes and dtypes.
        half: how gradients through it are pulled again where they vanish: ``"loop"`` where some value in it is a
            float16 or narrower, ``"unrolled"`` where it calls back to the host, where nothing is known, else None.
        rounding: machine epsilon of the narrowest floating-point numbers in it, PyTorch's parameters included.
    """

    batch: int
    outputs: Any
    half: str | None
    rounding: float


def traced(target: Any, images: Any) -> Traced:
    """Return what tracing shows of a target; another number of images, or other weights, is not traced anew.

    Args:
        target: what is attacked, its leaves traced or not.
        images: of the shape and dtype that it takes.

    Returns:
        Its outputs and precision.
    """
    leaves, tree = jax.tree.flatten(target)
    known = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    return _traced(_Shapes(tree, known, images.shape, images.dtype, attribute(target, "random")))


def classes_of(target: Any, images: Any, key: Any, *, judgement: str = "loss") -> int:
    """Return a target's number of classes.

    Args:
        target: images to logits.
        images: any images that it takes.
        key: any key, where it is random.
        judgement: what needs the classes, for the message.

    Returns:
        Their number.

    Raises:
        ValueError: if the target's outputs are not logits of two classes or more, or a key is missing.
    """
    if attribute(target, "random") and key is None:
        raise ValueError("the target is random, expected a key: pass key=jax.random.key(0)")
    batch, outputs = traced(target, images)[:2]
    try:
        check_logits(outputs, batch, name=_name(target))
    except ValueError as error:
        raise ValueError(f"{error}; for outputs that are not meant as logits pass your own {judgement}=") from None
    return outputs.shape[1]


def check_same_count(one: Any, other: Any, images: Any, *, names: tuple[str, str]) -> None:
    """Refuse two targets that tell apart other numbers of classes.

    Args:
        one: a target; of several logits that it returns, the first are looked at.
        other: another.
        images: any images that both take.
        names: what messages call them.

    Raises:
        ValueError: if their numbers differ.
    """
    first, second = (jax.tree.leaves(traced(target, images).outputs)[0].shape[1:] for target in (one, other))
    if len(first) == len(second) == 1 and first != second:
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same classes, got {first[0]} and {second[0]} outputs: use models "
            "that tell apart the same classes in the same order"
        )


def differentiable(target: Any, images: Any) -> bool:
    """Say whether a target's outputs are numbers that vary smoothly, and not integers or truth values.

    Args:
        target: what is attacked.
        images: any images that it takes.

    Returns:
        True where an output is of a floating-point dtype.
    """
    return any(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(traced(target, images).outputs))


class _Shapes:
    """A target's structure and shapes, equal for every number of images."""

    def __init__(self, tree: Any, leaves: tuple, shape: tuple[int, ...], dtype: Any, random: bool):
        self.tree, self.leaves, self.shape, self.dtype, self.random = tree, leaves, shape, dtype, random
        self._same = (tree, leaves, shape[1:], dtype, random)
        self._hash = hash(self._same)

    def __hash__(self):
        return self._hash

    def __eq__(self, other):
        return self._same == other._same


@functools.lru_cache(maxsize=256)
def _traced(shapes: _Shapes) -> Traced:
    target = jax.tree.unflatten(shapes.tree, [jax.ShapeDtypeStruct(*leaf) for leaf in shapes.leaves])
    image = jax.ShapeDtypeStruct(shapes.shape, shapes.dtype)

    def call(target, images):
        outputs = target(images, _keys.per_image(jax.random.key(0), images.shape[0]) if shapes.random else None)
        if not (leaves := jax.tree.leaves(outputs)) or not all(map(_is_array, leaves)):
            check_logits(outputs, images.shape[0], name=_name(target))  # which says what it is
        return outputs

    program, outputs = jax.make_jaxpr(call, return_shape=True)(target, image)
    found = set(_narrow(program.jaxpr))
    if found == {"custom"} and all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(outputs)):
        # The way back is not in the program of the way forward.
        def back(target, images):
            made, pull = jax.vjp(lambda moved: call(target, moved), images)
            return pull(made)

        found = set(_narrow(jax.make_jaxpr(back)(target, image).jaxpr)) - {"custom"}
    found -= {"custom"}
    half = "unrolled" if "callback" in found else "loop" if found else None
    return Traced(shapes.shape[0], outputs, half, narrowest(program.jaxpr, target, shapes.dtype))


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) or (isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind in "biufV")


def _name(target: Any) -> str:
    return str(getattr(target, "name", "the target"))


def _narrow(jaxpr: Any) -> Iterator[str]:
    """Name what in a program has few exponents, or is unknown."""
    for equation in equations(jaxpr):
        if "callback" in equation.primitive.name and not equation.primitive.name.startswith("debug"):
            yield "callback"
        if "custom_vjp" in equation.primitive.name:
            yield "custom"
        for dtype in (getattr(variable.aval, "dtype", None) for variable in equation.outvars):
            if dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).maxexp <= 16:
                yield "float16"
