"""What purifiers, attacks and weights are, as text that is the same in every process: a run is taken up again by it."""

import dataclasses
import functools
import hashlib
import re
import types
from typing import Any

import jax
import numpy as np

from jaxpurify.classifiers import Structure

LETTERS = 400  # of a text that a person still reads


def fingerprint(tree: Any) -> str:
    """Return a hash of a pytree's numbers and where they stand: other weights or parameters give another.

    Args:
        tree: any pytree of numbers and arrays.

    Returns:
        Sixteen hexadecimal digits.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        digest.update(jax.tree_util.keystr(path).encode())
        if _is_array(leaf) or isinstance(leaf, bool | int | float | complex):
            value = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
            digest.update(f"{value.shape}{value.dtype}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        else:
            digest.update(describe(leaf).encode())
    return digest.hexdigest()[:16]


def describe(value: Any) -> str:
    """Return what an object is as text, the same in every process that makes it alike.

    Numbers of arrays and the code of functions, with the values that these close over, enter as hashes. What a
    function reads from global variables is not seen.

    Args:
        value: a purifier, attack, function, or anything.

    Returns:
        Such as ``GaussianSmoothing(sigma=1.0, iterations=10.0, boundary='symmetric', truncate=4.0)``; of a text that is
        very long, the beginning and a hash.
    """
    text = _describe(value, ())
    return text if len(text) <= LETTERS else f"{text[: LETTERS // 4]}… #{_hash(text)}"


def _describe(value: Any, within: tuple[int, ...]) -> str:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if id(value) in within:
        return "…"
    within = (*within, id(value))
    if isinstance(value, types.FunctionType | types.MethodType | types.BuiltinFunctionType):
        return _function(value, within)
    if isinstance(value, Structure):
        return f"structure #{_hash(_describe(value.structure, within))}"
    if isinstance(value, functools.partial):
        return f"partial({', '.join(_describe(v, within) for v in (value.func, value.args, value.keywords))})"
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if dataclasses.is_dataclass(value):
        fields = (f"{f.name}={_describe(getattr(value, f.name, None), within)}" for f in dataclasses.fields(value))
        return f"{type(value).__name__}({', '.join(fields)})"
    if type(value) is dict:
        return f"{{{', '.join(f'{_describe(k, within)}: {_describe(v, within)}' for k, v in value.items())}}}"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(_describe(v, within) for v in value))}}}"
    if isinstance(value, list | tuple):
        name = type(value).__name__ if type(value) not in (list, tuple) else ""
        return f"{name}({', '.join(_describe(v, within) for v in value)})"
    if _is_array(value):
        one = np.ndim(value) == 0 and not _is_key(value)
        return repr(np.asarray(value).item()) if one else f"{value.dtype}{list(value.shape)} #{fingerprint(value)[:8]}"
    if not jax.tree_util.all_leaves([value]):
        return f"{type(value).__name__} #{fingerprint(value)[:8]}"
    if hasattr(value, "__wrapped__"):  # a jitted function, say
        return _describe(value.__wrapped__, within)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _function(function: Any, within: tuple[int, ...]) -> str:
    """Return a function's name with a hash of what it does, wherever it was loaded."""
    name = f"{getattr(function, '__module__', None)}.{function.__qualname__}"
    owner = getattr(function, "__self__", None)
    parts = [] if owner is None or isinstance(owner, types.ModuleType) else [_describe(owner, within)]
    plain = getattr(function, "__func__", function)
    if hasattr(plain, "__code__"):
        cells = [_cell(cell) for cell in plain.__closure__ or ()]
        parts += [_code(plain.__code__, within)]
        parts += [_describe(v, within) for v in (plain.__defaults__, plain.__kwdefaults__, cells)]
    return f"{name} #{_hash(''.join(parts))}" if parts else name


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return None


def _code(code: types.CodeType, within: tuple[int, ...]) -> str:
    constants = [_code(c, within) if isinstance(c, types.CodeType) else _describe(c, within) for c in code.co_consts]
    return f"{code.co_code.hex()}{code.co_names}{constants}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
