"""Classifiers of any JAX library, and any other callable, as pytrees: what is called is structure, numbers leaves."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import images as _images
from jaxpurify import keys as _keys
from jaxpurify.callables import check_arguments, check_model, check_variables, takes_key
from jaxpurify.callables import is_nnx as is_nnx
from jaxpurify.checks import is_from
from jaxpurify.datasets.classes import as_names
from jaxpurify.outputs import TRAINING, explained, is_training_fault
from jaxpurify.outputs import check_logits as check_logits
from jaxpurify.pytrees import concrete, pytree_dataclass, static

_NUMBERS = jax.Array | np.ndarray | np.generic | int | float | complex


@pytree_dataclass
class Function:
    """Any callable as a pytree: what is called is structure, its numbers are leaves.

    Args:
        variables: the numbers, any pytree.
        apply: called ``apply(variables, images)`` or, where ``random``, ``apply(variables, images, key)``.
        random: whether it needs a key.
        name: what reports call it.
    """

    variables: Any = ()
    apply: Callable = static()
    random: bool = static(False)
    name: str = static("function")

    def __call__(self, images, key=None):
        with explained(self.name, images):
            return self.apply(self.variables, images, key) if self.random else self.apply(self.variables, images)


@pytree_dataclass
class Classifier(Function):
    """A classifier: images to logits. Made by ``jaxpurify.classifier``.

    Args:
        variables: the weights, any pytree.
        apply: called ``apply(variables, images)`` or, where ``random``, ``apply(variables, images, key)``.
        random: whether it needs a key.
        name: what reports call it.
        image_shape: the only ``(height, width, channel)`` it takes, or None.
        class_names: names of the classes, or None.
    """

    image_shape: tuple[int, int, int] | None = static(None)
    class_names: tuple[str, ...] | None = static(None)

    def __call__(self, images, key=None):
        images = _images.as_jax(images)
        _images.check_images(images)
        if self.image_shape is not None and images.shape[1:] != self.image_shape:
            raise ValueError(f"{self.name} takes images of shape {self.image_shape}, got {images.shape[1:]}")
        if self.random:
            if key is None:
                raise ValueError(f"{self.name} is random, expected a key: pass key=jax.random.key(0)")
            key = _keys.per_image(key, images.shape[0])
        logits = check_logits(super().__call__(images, key), images.shape[0], name=self.name)
        if self.class_names is not None and len(self.class_names) != logits.shape[1]:
            raise ValueError(
                f"class_names of {self.name} must be one name for each of its {logits.shape[1]} outputs, got "
                f"{len(self.class_names)}: give all of them, in the order of the outputs"
            )
        return logits


def classifier(
    model: Any,
    variables: Any = None,
    *,
    batched: bool = True,
    channels_first: bool = False,
    random: bool | None = None,
    name: str | None = None,
    image_shape: Any = None,
    class_names: Any = None,
) -> Any:
    """Make one pytree ``images -> logits`` of a model of any JAX library.

    Args:
        model: a Flax NNX module (a copy of it is set to evaluation mode); a Linen module, with its ``variables`` or
            bound to them; an Equinox module (a copy of it is put into inference mode, unless ``random`` is True); a
            function ``apply(variables, images)`` such as a Haiku module's, with ``variables``; or a plain function
            ``images -> logits``. A plain function bakes the weights that it closes over into the compiled program:
            give them as ``variables`` to change them without compiling anew.
        variables: the weights of an ``apply`` function: any pytree. Where it holds more than arrays and numbers, such
            as an Equinox module and its state do, the arrays are leaves and all else is structure, and Equinox modules
            in it are put into inference mode.
        batched: False if the model takes one image at a time.
        channels_first: True if the model wants the channel axis before height and width.
        random: whether it takes a key as its last argument. By default a plain function is random if it has a
            parameter ``key``; a module is not.
        name: what reports call it; the class's or function's name by default.
        image_shape: the only ``(height, width, channel)`` that it takes, if it cannot take others.
        class_names: names of the classes, in the order of the outputs.

    Returns:
        A ``Classifier``. One that is given comes back with the new ``name``, ``image_shape`` and ``class_names``.

    Raises:
        TypeError: if the model is not callable with images, or needs variables, or others than those given, or
            ``class_names`` is not a sequence of names.
        ValueError: if ``image_shape`` cannot be meant.
    """
    names: dict[str, Any] = {"name": name} | structure_of(image_shape, class_names)
    if isinstance(model, Classifier):
        return dataclasses.replace(model, **{field: value for field, value in names.items() if value is not None})
    check_model(model, variables, name="classifier")
    if is_from(model, "flax.linen", "Module"):
        model, variables = model.unbind() if variables is None else (model, variables)
        model = model.apply
    if variables is not None:
        check_variables(model, variables)
        apply: Callable = model
        random = takes_key(model) if random is None else random
        default = _name_of(model)
        check_arguments(apply, "variables", "images", random=random, name=name or default)
        variables = jax.tree.map(_images.as_array, _in_inference_mode(variables))
        if not all(isinstance(leaf, _NUMBERS) and not isinstance(leaf, bool) for leaf in jax.tree.leaves(variables)):
            apply, variables = _split(variables, apply)
    elif is_nnx(model):
        apply, variables = _nnx_apply(model)
        random, default = bool(random), type(model).__name__
        check_arguments(model, "images", random=random, name=name or default)
    elif len(jax.tree.leaves(model)) > 1 or not jax.tree_util.all_leaves([model]):
        apply, variables = _split(model if random else _in_inference_mode(model), _call)
        random, default = bool(random), type(model).__name__
        check_arguments(model, "images", random=random, name=name or default)
    else:
        apply, variables = _Plain(model), ()
        random = takes_key(model) if random is None else random
        default = _name_of(model)
        check_arguments(model, "images", random=random, name=name or default)
    if not batched or channels_first:
        apply = _Adapted(apply=apply, batched=batched, channels_first=channels_first, random=random)
    names["name"] = name or default
    return Classifier(variables=variables, apply=apply, random=random, **names)


def structure_of(image_shape: Any, class_names: Any) -> dict[str, Any]:
    """Check what a classifier says of itself, which is structure: equal wherever it is the same, and never changed.

    Args:
        image_shape: the only ``(height, width, channel)`` that it takes, or None.
        class_names: names of the classes, or None.

    Returns:
        Both by name, as tuples.

    Raises:
        TypeError: if the names are not a sequence of names.
        ValueError: if the shape is not three sizes.
    """
    shape = image_shape if image_shape is None else tuple(np.ravel(image_shape).tolist())
    if shape is not None and (len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape)):
        raise ValueError(f"image_shape must be (height, width, channel), got {image_shape!r}")
    return {"image_shape": shape, "class_names": None if class_names is None else as_names(class_names)}


def of_function(function: Callable) -> Function:
    """Return a plain function as a pytree; with a parameter ``key``, it counts as random.

    Args:
        function: ``f(images)`` or ``f(images, key)``, with outputs of any kind.

    Returns:
        Equal to another of the same function.
    """
    name, random = _name_of(function), takes_key(function)
    check_arguments(function, "images", random=random, name=name)
    return Function(apply=_Plain(function), random=random, name=name)


def of_pytree(model: Any, *, random: bool) -> Function:
    """Return somebody's own callable pytree as one whose leaves are all arrays.

    Args:
        model: such as an Equinox module, with arrays and other things for leaves.
        random: whether it takes a key.

    Returns:
        Its arrays are leaves, everything else is structure.
    """
    check_arguments(model, "images", random=random, name=type(model).__name__)
    apply, variables = _split(model if random else _in_inference_mode(model), _call)
    return Function(variables=variables, apply=apply, random=random, name=type(model).__name__)


def of_nnx(module: Any, *, name: str | None = None) -> Function:
    """Return a Flax NNX module, with outputs of any kind, as a pytree.

    Args:
        module: called `module(images)`; a copy of it is set to evaluation mode.
        name: what reports call it; the class's name by default.

    Returns:
        Its weights are leaves, everything else is structure.
    """
    apply, variables = _nnx_apply(module)
    return Function(variables=variables, apply=apply, name=name or type(module).__name__)


def _name_of(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    owner = getattr(function, "__self__", function)
    return getattr(owner, "__name__", type(owner).__name__)


def _in_inference_mode(tree: Any) -> Any:
    """Put modules of Equinox and of Flax NNX in a tree into the mode without training; nothing is imported for that."""
    tree = jax.tree.map(lambda part: _evaluating(part) if is_nnx(part) else part, tree, is_leaf=is_nnx)
    equinox = sys.modules.get("equinox")
    if equinox is None:
        return tree
    parts = jax.tree.leaves(tree, is_leaf=lambda part: isinstance(part, equinox.Module))
    return equinox.nn.inference_mode(tree) if any(isinstance(part, equinox.Module) for part in parts) else tree


def _call(function: Callable, images: Any, *key: Any) -> Any:
    # By name where there is such a parameter: Equinox's modules take it in no other way.
    return function(images, key=key[0]) if key and takes_key(function) else function(images, *key)


@dataclasses.dataclass(frozen=True)
class _Plain:
    """A function without variables, equal to another of the same function."""

    function: Callable

    def __call__(self, variables, *arguments):
        # An eager call would change a module in training mode without a word; a traced one is refused by Flax.
        if "flax" in sys.modules and isinstance(self.function, Hashable) and concrete(arguments):
            _check_training(self.function, tuple(jax.ShapeDtypeStruct(each.shape, each.dtype) for each in arguments))
        return _call(self.function, *arguments)


@functools.lru_cache(maxsize=64)
def _check_training(function: Callable, arguments: tuple[jax.ShapeDtypeStruct, ...]) -> None:
    """Refuse a function that changes variables of Flax, once a function and shape."""
    try:
        jax.eval_shape(lambda *traced: _call(function, *traced), *arguments)
    except Exception as error:
        if is_training_fault(error):
            raise


@dataclasses.dataclass(frozen=True)
class _Adapted:
    """A model of single images, or with the channel axis first, in our convention."""

    apply: Callable
    batched: bool
    channels_first: bool
    random: bool

    def __call__(self, variables, images, *key):
        if self.channels_first:
            images = jnp.transpose(images, (0, 3, 1, 2))
        if self.batched:
            return self.apply(variables, images, *key)
        return jax.vmap(lambda image, *one: self.apply(variables, image, *one))(images, *key)


class Structure:
    """What is left of a module without its arrays: hashed once, since JAX hashes it at every call.

    Args:
        structure: what is left.
        receptive_field: rows and columns of the images that an output pixel depends on, where the module says so.
    """

    def __init__(self, structure: Any, receptive_field: int | None = None):
        self.structure, self.receptive_field = structure, receptive_field
        self._hash = hash(structure)

    def __hash__(self):
        return self._hash

    def __eq__(self, other):
        return self is other or (type(self) is type(other) and self.structure == other.structure)


class _NnxStructure(Structure):
    def __call__(self, variables, *arguments):
        from flax import nnx

        module = nnx.merge(self.structure, variables)
        before = dict(nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.Intermediate))))
        values = {path: variable.get_value() for path, variable in before.items()}
        outputs = _call(module, *arguments)
        after = dict(nnx.to_flat_state(nnx.state(module)))
        changed = [path for path in values if path not in after or after[path].get_value() is not values[path]]
        if changed:
            raise ValueError(f"{type(module).__name__} {TRAINING} (it changed {'.'.join(map(str, changed[0]))})")
        return outputs


class _PytreeStructure(Structure):
    """A tree without its arrays, and what is called with it."""

    def __call__(self, variables, *arguments):
        tree, others, apply = self.structure
        found, arrays = dict(others), iter(variables)
        leaves = [found[i] if i in found else next(arrays) for i in range(tree.num_leaves)]
        return apply(jax.tree_util.tree_unflatten(tree, leaves), *arguments)


def _evaluating(module: Any) -> Any:
    from flax import nnx

    copy = nnx.clone(module)
    copy.eval()
    return copy


def _nnx_apply(module: Any):
    from flax import nnx

    graph, state = nnx.split(_evaluating(module))
    return _NnxStructure(graph, getattr(module, "receptive_field", None)), state


def _split(tree: Any, apply: Callable) -> tuple[_PytreeStructure, list[Any]]:
    """Split a tree into arrays, and a function of them with all else that is in it."""
    leaves, structure = jax.tree_util.tree_flatten(tree)
    others = tuple((i, leaf) for i, leaf in enumerate(leaves) if not isinstance(leaf, jax.Array | np.ndarray))
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array | np.ndarray)]
    return _PytreeStructure((structure, others, apply)), arrays
