"""Frozen, keyword-only dataclasses that are pytrees: the shape of purifiers, attacks and wrappers."""

import dataclasses
import inspect
from typing import Any, ClassVar, TypeVar, dataclass_transform

import jax
import numpy as np

Class = TypeVar("Class", bound=type)
# What a field that is a single number accepts, traced or not.
Scalar = int | float | np.number | np.ndarray | jax.Array
# What a field accepts that is a number or one for each image. Lists are turned into arrays, and everything else is
# refused in a sentence, by the class itself.
PerImage = int | float | np.number | np.ndarray | jax.Array | list | tuple | object


def static(default: Any = dataclasses.MISSING, *, factory: Any = dataclasses.MISSING) -> Any:
    """Declare a field that fixes shapes or loops: part of the tree's structure, so a new value compiles anew.

    Args:
        default: the field's default, hashable.
        factory: a function of no argument that makes the default instead.

    Returns:
        A dataclass field for a class under ``@jaxpurify.purifier``.
    """
    return dataclasses.field(default=default, default_factory=factory, metadata={"static": True})


@dataclass_transform(kw_only_default=True, frozen_default=True)
def pytree_dataclass(cls: Class, *, class_attributes: tuple[str, ...] = (), typed: bool = False) -> Class:
    """Turn a class into a frozen keyword-only dataclass registered as a pytree.

    Annotated fields are children (numbers are leaves); fields made by ``static`` are structure. Construction by a
    person calls ``check()`` where the class defines it; unflattening never does, because JAX unflattens with tracers
    and placeholders in the place of numbers.

    Args:
        cls: the class, with annotated fields.
        class_attributes: annotated names that are attributes of the class and not fields.
        typed: whether construction refuses values that are plainly of another type than a field's annotation.

    Returns:
        The same class, registered.
    """
    annotations = inspect.get_annotations(cls)
    for name in annotations.keys() & class_attributes:
        annotations[name] = ClassVar[annotations[name]]
    cls.__annotations__ = annotations

    def constructed(self):
        for field in dataclasses.fields(self):
            # A whole number given for a real one would be an integer leaf: not differentiable, and compiled anew.
            value = getattr(self, field.name)
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if whole and (isinstance(field.default, float) or field.metadata.get("static")):
                object.__setattr__(self, field.name, float(value) if isinstance(field.default, float) else int(value))
            if typed:
                _check_type(type(self).__name__, field, value)
        if hasattr(self, "check"):
            self.check()

    cls.__post_init__ = constructed  # type: ignore[attr-defined]
    own_init = "__init__" in cls.__dict__
    cls = dataclasses.dataclass(frozen=True, kw_only=True, eq=False, init=not own_init)(cls)  # type: ignore[assignment]
    fields = dataclasses.fields(cls)
    children = [field.name for field in fields if not field.metadata.get("static")]
    structure = [field.name for field in fields if field.metadata.get("static")]

    def flatten_with_keys(self):
        leaves = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in children]
        return leaves, tuple(getattr(self, name) for name in structure)

    def flatten(self):
        return [getattr(self, name) for name in children], tuple(getattr(self, name) for name in structure)

    def unflatten(values, leaves):
        self: Any = object.__new__(cls)
        for name, value in zip(structure, values, strict=True):
            object.__setattr__(self, name, value)
        for name, value in zip(children, leaves, strict=True):
            object.__setattr__(self, name, value)
        return self

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def _check_type(where: str, field: Any, value: Any) -> None:
    """Refuse text for numbers, truth values for counts, several numbers for one, and the like."""
    kind, got = field.type, f"{value!r}" if isinstance(value, str | bool | None) else type(value).__name__
    name = f"{field.name} of {where}"
    if value is None and kind in (Scalar | None, float | None, int | None):
        return
    if kind is str and not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {got}")
    if kind is bool and not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {got}")
    if kind in (int, int | None, float, float | None, Scalar, Scalar | None) and isinstance(value, str | bool | None):
        raise TypeError(f"{name} must be a number, got {got}")
    if kind in (Scalar, Scalar | None) and np.ndim(value) != 0:
        raise ValueError(f"{name} must be a scalar, got shape {np.shape(value)}: several values? use sweep")


def concrete(value: Any) -> bool:
    """Say whether a value's numbers can be looked at now: it holds no tracer.

    Args:
        value: any pytree.

    Returns:
        True where no leaf is being traced.
    """
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))
