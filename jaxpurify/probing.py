"""What is shared by all that probe a model with a few images: eight rows, quickly compiled calls, and a memory."""

import collections
import functools
import hashlib
import inspect
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from jaxpurify import keys as _keys
from jaxpurify.interop import TorchClassifier
from jaxpurify.models import attribute
from jaxpurify.pytrees import concrete

ROWS = 8


def eight(images: Any) -> np.ndarray:
    """Return the first eight images, completed by altered copies where there are fewer.

    Args:
        images: shape ``(batch, height, width, channel)``.

    Returns:
        Eight images on the host, of the same dtype.
    """
    some = np.asarray(images[:ROWS])
    several = np.concatenate([some, 1 - some, some[:, :, ::-1], 1 - some[:, ::-1]])
    return several[np.arange(ROWS) % len(several)]


def eight_keys(model: Any, images: Any, key: Any) -> Any:
    """Return keys for the eight images of ``eight``.

    Args:
        model: the model.
        images: as given to ``eight``.
        key: one typed key, one per image, or None for ``jax.random.key(0)``.

    Returns:
        Eight typed keys, or None for a model that is not random.
    """
    if not attribute(model, "random"):
        return None
    key = jax.random.key(0) if key is None else _keys.check_key(key)
    if key.ndim == 0:
        return _keys.per_image(key, ROWS)
    return _keys.per_image(key, len(images))[np.arange(ROWS) % len(images)]


class Program:
    """A call that is compiled for any model, shared by all that probe models: quickly, since it runs a few times.

    Args:
        function: of pytrees, such as a model, images and keys.
    """

    def __init__(self, function: Callable):
        self.function = function

    @functools.cached_property
    def _jitted(self) -> Any:
        # Made at the first call, since it asks which backend there is, and importing starts none.
        return jax.jit(self.function, compiler_options=quick_compilation())

    def __call__(self, *arguments: Any) -> Any:
        return self._jitted(*arguments)

    def trace(self, *arguments: Any) -> Any:
        """Return the traced call, which a call with the same arguments shares.

        Args:
            arguments: as for a call.

        Returns:
            What ``jax.jit(function).trace`` returns.
        """
        return self._jitted.trace(*arguments)


@functools.cache
def quick_compilation() -> dict[str, Any] | None:
    """Return the options of ``jax.jit`` by which XLA takes a third of its time on the CPU, for what runs a few times.

    Returns:
        ``compiler_options``, or None where the backend is not the CPU's, or this JAX does not know them.
    """
    options = {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    }
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda number: number, compiler_options=options)(0)
    except jax.errors.JaxRuntimeError:
        return None
    return options


def _ask(model: Any, images: Any, keys: Any) -> Any:
    return model(images, keys)


forward = Program(_ask)


def rounding(model: Any, images: Any, keys: Any) -> float:
    """Return the relative rounding of the narrowest floating-point numbers that a model computes with.

    Args:
        model: the model; PyTorch modules within it count with the dtype of their parameters.
        images: eight images.
        keys: their keys, or None.

    Returns:
        The machine epsilon of that dtype.
    """
    return narrowest(forward.trace(model, images, keys).jaxpr.jaxpr, model, jnp.result_type(images))


def narrowest(program: Any, model: Any, dtype: Any) -> float:
    """Return the relative rounding of the narrowest floating-point numbers in a traced model.

    Args:
        program: its jaxpr.
        model: the model, for the PyTorch modules within it, which count with the dtype of their parameters.
        dtype: of the images.

    Returns:
        The machine epsilon of that dtype.
    """
    dtypes: list[Any] = [dtype]
    for equation in equations(program):
        dtypes += [getattr(variable.aval, "dtype", None) for variable in equation.outvars]
    sizes = [float(jnp.finfo(dtype).eps) for dtype in dtypes if dtype is not None and is_float(dtype)]
    for module in _torch_modules(jax.tree.structure(model)):
        import torch

        floats = {tensor.dtype for tensor in module.tensors() if tensor.is_floating_point()}
        sizes += [torch.finfo(dtype).eps for dtype in floats]
    return max(sizes)


def is_float(dtype: Any) -> bool:
    """Say whether a dtype is one of floating-point numbers, those that NumPy does not know included.

    Args:
        dtype: any dtype.

    Returns:
        True for float16, bfloat16, float32 and the like.
    """
    return jnp.issubdtype(dtype, jnp.floating)


def holds_own_code(model: Any) -> bool:
    """Say whether a model holds code that is not of this package: a function, a module, or a class of one's own.

    Args:
        model: any pytree.

    Returns:
        False where all its nodes, and the functions in its structure, are this package's, or modules of PyTorch.
    """

    def ours(value):
        if isinstance(value, tuple | list):
            return all(map(ours, value))
        # Another callable of this package's, such as what adapts a function, holds somebody's code.
        known = isinstance(value, type) or inspect.ismethod(value) or inspect.isfunction(value)
        if not callable(value) or not known or "<locals>" in value.__qualname__:
            return not callable(value)
        return (value.__module__ or "").split(".")[0] in ("jaxpurify", "builtins")

    def of_node(structure):
        if isinstance(structure.node_data(), tuple) and structure.node_data()[0] is TorchClassifier:
            return True
        return ours(structure.node_data() or ()) and all(map(of_node, structure.children()))

    return not of_node(jax.tree.structure(model))


def is_program(value: Any) -> bool:
    """Say whether a value is one of JAX's traced programs.

    Args:
        value: any object.

    Returns:
        True for a jaxpr, closed or not.
    """
    return isinstance(value, Jaxpr | ClosedJaxpr)


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yield the equations of a program and of all programs within it.

    Args:
        jaxpr: the program.

    Yields:
        Its equations.
    """
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=is_program):
            if is_program(value):
                yield from equations(getattr(value, "jaxpr", value))


class Remembered:
    """What was found out about the latest 16 models, each known by its structure, its weights and the images' shape.

    JAX's arrays are known by identity and referred to weakly, so that asking again costs microseconds and no weights
    are kept in memory; NumPy's are known by a hash, and PyTorch modules by the versions of their tensors and the
    simple attributes of all their parts, such as ``training``.
    """

    def __init__(self):
        self._found: collections.OrderedDict[Any, Any] = collections.OrderedDict()

    def recall(self, model: Any, images: Any, find: Callable[[], Any], *, about: Any = None) -> Any:
        """Return what is known of a model, or find it out.

        Args:
            model: any pytree callable.
            images: any images; their shape and dtype count.
            about: what else counts, hashable.
            find: called without arguments where nothing is known.

        Returns:
            What it returned; None while the model or the images are being traced, when it is not called.
        """
        leaves, structure = jax.tree.flatten(model)
        if not concrete((leaves, images)):
            return None
        arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
        known: Any = (structure, images.shape[1:], str(images.dtype), about, *map(_token, leaves))
        known += tuple(map(_torch_token, _torch_modules(structure)))
        if known in self._found:
            references, value = self._found[known]
            if all(reference() is array for reference, array in zip(references, arrays, strict=True)):
                self._found.move_to_end(known)
                return value
        # Inside a compiled function, even what is not traced becomes a part of it.
        if isinstance(jnp.zeros(()), jax.core.Tracer):
            return None
        value = find()
        self._found[known] = [weakref.ref(array) for array in arrays], value
        self._found.move_to_end(known)
        while len(self._found) > 16:
            self._found.popitem(last=False)
        return value


def _token(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return id(leaf)
    array = np.asarray(leaf)
    return array.shape, str(array.dtype), hashlib.sha256(array.tobytes()).digest()


@functools.lru_cache(maxsize=16)
def _torch_modules(structure: Any) -> list[Any]:
    """Return the PyTorch modules in a model: they have no leaves, so its structure says which they are."""
    model = jax.tree.unflatten(structure, [None] * structure.num_leaves)
    nodes = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, TorchClassifier))
    return [node.apply for node in nodes if isinstance(node, TorchClassifier)]


def _torch_token(module: Any) -> tuple:
    versions = tuple((tensor.data_ptr(), tensor._version) for tensor in module.tensors())
    simple = bool | int | float | str | None
    settings = tuple(
        tuple((name, value) for name, value in vars(part).items() if isinstance(value, simple))
        for part in module.module.modules()
    )
    return id(module.module), versions, settings
