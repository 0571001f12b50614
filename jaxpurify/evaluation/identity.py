"""What purifiers, attacks and weights are, as text that is the same in every process: a run is taken up again by it."""

import collections
import dataclasses
import functools
import hashlib
import re
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxpurify.checks import is_from
from jaxpurify.classifiers import Structure

LETTERS = 400  # of a text that a person still reads
DEEPEST = 150  # objects within one another that are looked at
# Libraries whose objects say by `repr` what they are, but for arrays, which are hashed.
_SPOKEN = frozenset({"jax", "jaxlib", "jaxpurify", "flax", "optax", "equinox", "haiku", "numpy", "ml_dtypes"})
_FUNCTIONS = types.FunctionType | types.MethodType | types.BuiltinFunctionType | types.MethodWrapperType
# Methods that make, copy, compare or show an object; what they make of it is seen in what it holds.
_NOT_COMPUTING = frozenset(
    f"__{name}__"
    for name in (
        *("init", "new", "post_init", "init_subclass", "class_getitem", "setattr", "delattr", "del", "set_name"),
        *("repr", "str", "format", "dir", "eq", "ne", "lt", "le", "gt", "ge", "hash", "sizeof"),
        *("reduce", "reduce_ex", "getstate", "setstate", "getnewargs", "copy", "deepcopy", "replace", "annotate"),
    )
)
# Of a PyTorch module: its outputs or its gradients go through these.
_HOOKS = frozenset({"_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"})
_INSTALLED = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def fingerprint(tree: Any) -> str:
    """Return a hash of a pytree's numbers and where they stand: other weights or parameters give another.

    Args:
        tree: any pytree of numbers and arrays.

    Returns:
        Sixteen hexadecimal digits.
    """
    return _fingerprint(tree, _Walk())


def describe(value: Any) -> str:
    """Return what an object is as text, the same in every process that makes it alike.

    Numbers of arrays, PyTorch's too, and the code of functions, with the values that these close over and read from
    global variables, enter as hashes. Functions of installed libraries enter by name.

    Args:
        value: a purifier, attack, function, or anything.

    Returns:
        Such as ``GaussianSmoothing(sigma=1.0, iterations=10.0, boundary='symmetric', truncate=4.0)``; of a text that is
        very long, the beginning and a hash.
    """
    text = _Walk().describe(value, ())
    return text if len(text) <= LETTERS else f"{text[: LETTERS // 4]}… #{_hash(text)}"


def identify(value: Any) -> tuple[str, bool]:
    """Return a hash of all that can be seen of an object, and whether that is all of it.

    Args:
        value: a model or purifier.

    Returns:
        Sixteen hexadecimal digits, and False where the object holds others that do not say what they are.
    """
    walk = _Walk()
    text = walk.describe(value, ())
    return hashlib.sha256(f"{_fingerprint(value, walk)}{text}".encode()).hexdigest()[:16], not walk.hidden


def _fingerprint(tree: Any, walk: "_Walk") -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        digest.update(jax.tree_util.keystr(path).encode())
        if _is_array(leaf) or isinstance(leaf, bool | int | float | complex):
            value = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
            if value.dtype == object:  # whose bytes are addresses
                digest.update(walk.describe(value.tolist(), ()).encode())
                continue
            digest.update(f"{value.shape}{value.dtype}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        else:
            digest.update(walk.describe(leaf, ()).encode())
    return digest.hexdigest()[:16]


class _Walk:
    """Describe an object and what it refers to, each function and object once.

    Attributes:
        hidden: whether something was met that does not say what it is.
    """

    def __init__(self) -> None:
        self.hidden = False
        self._known: dict[int, tuple[Any, str]] = {}  # the object too: its address is not given to another then

    def describe(self, value: Any, within: tuple[int, ...]) -> str:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            return repr(value)
        if id(value) in within:
            return "…"
        if len(within) > DEEPEST:
            self.hidden = True
            return type(value).__name__
        within = (*within, id(value))
        if isinstance(value, _FUNCTIONS):
            return self._once(value, self._function, within)
        if isinstance(value, Structure):
            return f"structure #{_hash(self.describe(value.structure, within))}"
        if isinstance(value, functools.partial):
            parts = (value.func, value.args, value.keywords)
            return f"partial({', '.join(self.describe(part, within) for part in parts)})"
        if isinstance(value, type):
            return f"{value.__module__}.{value.__qualname__}{self._class(value, within)}"
        if isinstance(value, types.ModuleType):
            return value.__name__
        if is_from(value, "torch", "Module"):
            return self._once(value, self._torch_module, within)
        if is_from(value, "torch", "Tensor"):
            return self._tensor(value)
        if dataclasses.is_dataclass(value):
            fields = (
                f"{f.name}={self.describe(getattr(value, f.name, None), within)}" for f in dataclasses.fields(value)
            )
            return f"{type(value).__name__}({', '.join(fields)}){self._class(type(value), within)}"
        if isinstance(value, dict | set | frozenset | list | tuple):
            return self._container(value, within)
        if _is_array(value):
            return self._array(value)
        if not jax.tree_util.all_leaves([value]):
            return self._once(value, self._node, within)
        return self._once(value, self._object, within)

    def _container(self, value: Any, within: tuple[int, ...]) -> str:
        """Describe what a container holds; of a user's own kind, its code and attributes too."""
        cls = type(value)
        name = "" if cls in (dict, set, frozenset, list, tuple) else cls.__name__
        if isinstance(value, dict):
            pairs = (f"{self.describe(k, within)}: {self.describe(v, within)}" for k, v in value.items())
            text = f"{name}{{{', '.join(pairs)}}}"
        elif isinstance(value, set | frozenset):
            text = f"{name}{{{', '.join(sorted(self.describe(v, within) for v in value))}}}"
        else:
            text = f"{name}({', '.join(self.describe(v, within) for v in value)})"
        own = {} if _is_installed(cls.__module__) else _held(value)
        own |= {"default": value.default_factory} if isinstance(value, collections.defaultdict) else {}
        return f"{text}{f' #{_hash(self.describe(own, within))}' if own else ''}{self._class(cls, within)}"

    def _node(self, value: Any, within: tuple[int, ...]) -> str:
        """Describe a pytree of a registered kind: its numbers, and at every node what is not a number."""
        children, aside = jax.tree_util.default_registry.flatten_one_level(value) or ((), None)
        parts = [self.describe(aside, within), *(self.describe(child, within) for child in children)]
        return f"{type(value).__name__} #{_hash(' '.join(parts))}{self._class(type(value), within)}"

    def _once(self, value: Any, describe: Any, within: tuple[int, ...]) -> str:
        if id(value) not in self._known:
            self._known[id(value)] = value, describe(value, within)
        return self._known[id(value)][1]

    def _array(self, value: Any) -> str:
        if np.ndim(value) == 0 and not _is_key(value):
            return repr(np.asarray(value).item())
        return f"{value.dtype}{list(value.shape)} #{_fingerprint(value, self)[:8]}"

    def _function(self, function: Any, within: tuple[int, ...]) -> str:
        """Return a function's name with a hash of what it does, wherever it was loaded."""
        name = f"{getattr(function, '__module__', None)}.{function.__qualname__}"
        owner = getattr(function, "__self__", None)
        parts = [] if owner is None or isinstance(owner, types.ModuleType) else [self.describe(owner, within)]
        plain = getattr(function, "__func__", function)
        if hasattr(plain, "__code__"):
            cells = [_cell(cell) for cell in plain.__closure__ or ()]
            if not _is_installed(plain.__globals__.get("__name__")):
                parts += [self._code(plain.__code__, within)]
                parts += [self.describe(self._globals(plain), within)]
            parts += [self.describe(v, within) for v in (plain.__defaults__, plain.__kwdefaults__, cells)]
            own = {name: value for name, value in vars(plain).items() if not name.startswith("__")}
            parts += [self.describe(own, within)] if own else []
        return f"{name} #{_hash(''.join(parts))}" if parts else name

    def _globals(self, function: Any) -> dict[str, Any]:
        """Return the global variables that a function reads, and those of other modules of the user's."""
        names = sorted(_names(function.__code__))
        found: dict[str, Any] = {}
        modules: dict[str, types.ModuleType] = {}
        for name in names:
            value = function.__globals__.get(name, sys.modules.get(name))
            if isinstance(value, types.ModuleType):
                modules[value.__name__] = value
            elif name in function.__globals__:
                found[name] = value
        waiting = [module for module in modules.values() if not _is_installed(module.__name__)]
        for module in waiting:  # modules within them come in while they are looked at
            for name in names:
                value = vars(module).get(name)
                if isinstance(value, types.ModuleType):
                    if value.__name__ not in modules and not _is_installed(value.__name__):
                        modules[value.__name__] = value
                        waiting.append(value)
                elif name in vars(module):
                    found[f"{module.__name__}.{name}"] = value
        return found

    def _code(self, code: types.CodeType, within: tuple[int, ...]) -> str:
        constants = [
            self._code(c, within) if isinstance(c, types.CodeType) else self.describe(c, within) for c in code.co_consts
        ]
        return f"{code.co_code.hex()}{code.co_names}{constants}"

    def _class(self, cls: type, within: tuple[int, ...]) -> str:
        """Return a hash of the code and numbers of a class of the user's; nothing for an installed one."""
        return self._once(cls, self._own, within)

    def _own(self, cls: type, within: tuple[int, ...]) -> str:
        parts = []
        for base in cls.__mro__:
            for name, member in vars(base).items() if not _is_installed(base.__module__) else ():
                plain = getattr(member, "__func__", getattr(member, "fget", member))
                special = name.startswith("__")
                computes = isinstance(plain, _FUNCTIONS) and name not in _NOT_COMPUTING
                if computes if special else not name.startswith("_abc_"):
                    parts.append(f"{name}={self.describe(plain, within)}")
        return f" #{_hash(''.join(parts))}" if parts else ""

    def _torch_module(self, module: Any, within: tuple[int, ...]) -> str:
        parts = [f"{type(module).__name__}{self._class(type(module), within)}"]
        for name, part in module.named_modules():
            parts.append(f"{name}: {type(part).__qualname__}{self._class(type(part), within)}")
            parts += [f"{key}={self._tensor(value)}" for key, value in part.named_parameters(recurse=False)]
            parts += [f"{key}={self._tensor(value)}" for key, value in part.named_buffers(recurse=False)]
            parts += [self.describe(_beside_weights(part), within)]
        return f"{type(module).__name__} #{_hash(' '.join(parts))}"

    def _tensor(self, tensor: Any) -> str:
        import torch

        about = f"{tensor.dtype}{list(tensor.shape)}"
        try:
            values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        except (RuntimeError, TypeError, NotImplementedError):  # a sparse or quantised one
            self.hidden = True
            return about
        return f"{about} #{hashlib.sha256(values.tobytes()).hexdigest()[:16]}"

    def _object(self, value: Any, within: tuple[int, ...]) -> str:
        """Describe an object of any other kind by its attributes or, of a library's that says what it is, by that."""
        cls, name = type(value), type(value).__name__
        if not _is_installed(cls.__module__):
            return f"{name} #{_hash(self.describe(_held(value), within))}{self._class(cls, within)}"
        if hasattr(value, "__wrapped__"):  # a jitted function, say, or one with rules for its derivatives
            rules = {key: each for key, each in _attributes(value).items() if callable(each) and key != "__wrapped__"}
            text = self.describe(value.__wrapped__, within)
            return f"{text} #{_hash(self.describe(rules, within))}" if rules else text
        try:
            text = repr(value)
        except Exception:
            text, self.hidden = name, True
        plain = re.sub(r" at 0x[0-9a-fA-F]+", "", text)
        package = cls.__module__.partition(".")[0]
        if package in _SPOKEN or package in sys.stdlib_module_names:
            # An address in the place of what it holds, or an array of which a part is shown.
            self.hidden |= (package not in _SPOKEN and plain != text) or "array(" in text.lower()
            functions = {key: each for key, each in _attributes(value).items() if isinstance(each, _FUNCTIONS)}
            return f"{plain} #{_hash(self.describe(functions, within))}" if functions else plain
        self.hidden = True  # what another library's object computes with may not all be here
        array = _read(value)
        if array is not None:
            return f"{name} {self._array(array)}"
        held = {key: each for key, each in _attributes(value).items() if not key.startswith("_") and _is_plain(each)}
        return f"{name} #{_hash(self.describe(held, within))}"


def _is_installed(module: Any) -> bool:
    """Say whether a module is Python's own, this library's or another installed one, and not the user's."""
    if not isinstance(module, str) or module == "__main__":
        return False
    package = module.partition(".")[0]
    if package == "jaxpurify" or package in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(module) or sys.modules.get(package), "__file__", None)
    if file is None:
        return module in sys.builtin_module_names
    path = Path(file)
    return bool({"site-packages", "dist-packages"} & set(path.parts)) or any(map(path.is_relative_to, _INSTALLED))


def _names(code: types.CodeType) -> set[str]:
    nested = (_names(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*nested)


def _held(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, those in slots too."""
    found: dict[str, Any] = {}
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for slot in [slots] if isinstance(slots, str) else slots:
            private = slot.startswith("__") and not slot.endswith("__")
            name = f"_{base.__name__.lstrip('_')}{slot}" if private else slot
            if name[:2] != "__" and hasattr(value, name):
                found[name] = getattr(value, name)
    return found | _attributes(value)


def _beside_weights(part: Any) -> dict[str, Any]:
    """Return what a PyTorch module holds besides parameters, buffers and parts: attributes, and hooks in order."""
    import torch

    usual = vars(torch.nn.Module())
    hooks = {key: list(vars(part).get(key, {}).values()) for key in usual if key in _HOOKS}
    own = {key: value for key, value in vars(part).items() if key not in usual and key != "_compiled_call_impl"}
    return own | {key: value for key, value in hooks.items() if value}


def _attributes(value: Any) -> dict[str, Any]:
    try:
        return dict(vars(value))
    except TypeError:
        return {}


def _is_plain(value: Any) -> bool:
    """Say whether a value is made of numbers, texts and arrays alone."""
    if isinstance(value, dict):
        return all(_is_plain(each) for pair in value.items() for each in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | complex | str | bytes) or _is_array(value)


def _read(value: Any) -> np.ndarray | None:
    """Return a tensor or table of another library as an array, if NumPy can read it."""
    try:
        array = np.asarray(value) if hasattr(value, "__array__") else None
    except Exception:
        return None
    return None if array is None or array.dtype == object else array


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
