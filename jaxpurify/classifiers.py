"""Classifiers of any JAX library, and any other callable, as pytrees: what is called is structure, numbers leaves."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import images as _images
from jaxpurify import keys as _keys
from jaxpurify.pytrees import pytree_dataclass, static


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
        logits = super().__call__(images, key)
        if jnp.ndim(logits) != 2 or logits.shape[0] != images.shape[0]:
            raise ValueError(
                f"{self.name} must return logits of shape ({images.shape[0]}, classes), got {jnp.shape(logits)}: "
                "a model of single images? pass batched=False"
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
    image_shape: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
) -> Any:
    """Make one pytree ``images -> logits`` of a model of any JAX library.

    Args:
        model: a Flax NNX module (a copy of it is set to evaluation mode); a function ``apply(variables, images)``
            such as a Linen or Haiku module's, with ``variables``; an Equinox module; or a plain function
            ``images -> logits``. A plain function bakes the weights that it closes over into the compiled program:
            give them as ``variables`` to change them without compiling anew.
        variables: the weights of an ``apply`` function.
        batched: False if the model takes one image at a time.
        channels_first: True if the model wants the channel axis before height and width.
        random: whether it takes a key as its last argument. By default a plain function is random if it has a
            parameter ``key``; a module is not.
        name: what reports call it; the class's or function's name by default.
        image_shape: the only ``(height, width, channel)`` that it takes, if it cannot take others.
        class_names: names of the classes.

    Returns:
        A ``Classifier``. One that is given comes back with the new ``name``, ``image_shape`` and ``class_names``.

    Raises:
        TypeError: if the model is not callable.
    """
    names: dict[str, Any] = {"name": name}
    # Structure, so it must be equal wherever it is the same, and never change.
    names["image_shape"] = None if image_shape is None else tuple(image_shape)
    names["class_names"] = None if class_names is None else tuple(class_names)
    if isinstance(model, Classifier):
        return dataclasses.replace(model, **{field: value for field, value in names.items() if value is not None})
    if not callable(model):
        raise TypeError(f"classifier must be callable (a module or a function), got {type(model).__name__}")
    if variables is not None:
        apply: Callable = model
        random = _takes_key(model) if random is None else random
        owner = getattr(model, "__self__", model)
        default = getattr(owner, "__name__", type(owner).__name__)
    elif is_nnx(model):
        apply, variables = _nnx_apply(model)
        random, default = bool(random), type(model).__name__
    elif len(jax.tree.leaves(model)) > 1 or not jax.tree_util.all_leaves([model]):
        apply, variables = _pytree_apply(model)
        random, default = bool(random), type(model).__name__
    else:
        apply, variables = _Plain(model), ()
        random = _takes_key(model) if random is None else random
        default = getattr(model, "__name__", type(model).__name__)
    if not batched or channels_first:
        apply = _Adapted(apply=apply, batched=batched, channels_first=channels_first, random=random)
    names["name"] = name or default
    return Classifier(variables=variables, apply=apply, random=random, **names)


def of_function(function: Callable) -> Function:
    """Return a plain function as a pytree; with a parameter ``key``, it counts as random.

    Args:
        function: ``f(images)`` or ``f(images, key)``, with outputs of any kind.

    Returns:
        Equal to another of the same function.
    """
    name = getattr(function, "__name__", type(function).__name__)
    return Function(apply=_Plain(function), random=_takes_key(function), name=name)


def of_pytree(model: Any, *, random: bool) -> Function:
    """Return somebody's own callable pytree as one whose leaves are all arrays.

    Args:
        model: such as an Equinox module, with arrays and other things for leaves.
        random: whether it takes a key.

    Returns:
        Its arrays are leaves, everything else is structure.
    """
    apply, variables = _pytree_apply(model)
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


def is_nnx(model: Any) -> bool:
    """Say whether an object is a Flax NNX module, without importing Flax.

    Args:
        model: any object.

    Returns:
        True for modules.
    """
    return any(c.__module__.startswith("flax.nnx") and c.__name__ == "Module" for c in type(model).__mro__)


def _takes_key(function: Callable) -> bool:
    try:
        return "key" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _call(function: Callable, images: Any, *key: Any) -> Any:
    # By name where there is such a parameter: Equinox's modules take it in no other way.
    return function(images, key=key[0]) if key and _takes_key(function) else function(images, *key)


@dataclasses.dataclass(frozen=True)
class _Plain:
    """A function without variables, equal to another of the same function."""

    function: Callable

    def __call__(self, variables, *arguments):
        return _call(self.function, *arguments)


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

        return _call(nnx.merge(self.structure, variables), *arguments)


class _PytreeStructure(Structure):
    def __call__(self, variables, *arguments):
        tree, others = self.structure
        found, arrays = dict(others), iter(variables)
        leaves = [found[i] if i in found else next(arrays) for i in range(tree.num_leaves)]
        return _call(jax.tree_util.tree_unflatten(tree, leaves), *arguments)


def _nnx_apply(module: Any):
    from flax import nnx

    copy = nnx.clone(module)
    copy.eval()
    graph, state = nnx.split(copy)
    return _NnxStructure(graph, getattr(module, "receptive_field", None)), state


def _pytree_apply(module: Any):
    leaves, tree = jax.tree_util.tree_flatten(module)
    others = tuple((i, leaf) for i, leaf in enumerate(leaves) if not isinstance(leaf, jax.Array | np.ndarray))
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array | np.ndarray)]
    return _PytreeStructure((tree, others)), arrays
