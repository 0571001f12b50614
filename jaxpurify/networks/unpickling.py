"""PyTorch checkpoints, read without running a line of what a pickle might hold, and the weights in them."""

import argparse
import collections
import datetime
import decimal
import pathlib
import pickle
import re
import types
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxpurify.networks import weights

NUMPY_DTYPES = ("Bool", *(f"{kind}{bits}" for kind in ("Int", "UInt") for bits in (8, 16, 32, 64)))
NUMPY_DTYPES += ("Float16", "Float32", "Float64", "LongDouble", "Complex64", "Complex128", "Str", "Bytes")


def load(path: Path) -> Any:
    """Unpickle a checkpoint: tensors, and the plain values that training scripts save beside them.

    Args:
        path: the file.

    Returns:
        What was saved.

    Raises:
        ImportError: if PyTorch is not installed.
        ValueError: if it names any code, is truncated, or no checkpoint.
    """
    try:
        import torch
    except ImportError:
        raise ImportError("reading PyTorch checkpoints needs PyTorch: pip install 'jaxpurify[torch]'") from None

    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_plain_types()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        held = f"names code to run ({weights.shown(code[1])})" if code else "holds something else than weights"
        raise ValueError(
            f"{path} {held}, so it was refused and nothing in it ran: save the weights alone, as "
            f"torch.save(model.state_dict(), ...), or copy the file again if it was truncated"
        ) from None
    except Exception as error:  # torch.load raises whatever its parsers raise: KeyError, EOFError, OSError, ...
        if "Invalid magic number" in str(error):
            raise ValueError(
                f"{path} is a pickle that torch.save did not write: save its weights with torch.save(state_dict, ...)"
            ) from None
        raise ValueError(
            f"{path} is not a whole PyTorch checkpoint of weights ({type(error).__name__}): was it truncated while it "
            f"was copied or downloaded?"
        ) from None


def sets(checkpoint: Any) -> dict[str, dict[str, Any]]:
    """Find the sets of weights in a checkpoint, at any depth.

    Args:
        checkpoint: what was saved.

    Returns:
        Dotted path ("model", "ema.shadow"; "" for the checkpoint itself) → name → tensor; optimizers are left out, and
        so are tensors beside weights that do not look like weights (means, scores). Values that are no tensors stay
        where there is no better set, so that they can be refused by name.
    """
    found: dict[str, dict[str, Any]] = {}
    mixed: dict[str, dict[str, Any]] = {}
    seen: set[int] = set()
    waiting: collections.deque[tuple[str, Any]] = collections.deque([("", checkpoint)])
    while waiting:
        path, value = waiting.popleft()
        if id(value) in seen:  # one object under two names is one set
            continue
        seen.add(id(value))
        below = _below(value)
        waiting += [(f"{path}.{key}" if path else key, inner) for key, inner in below.items()]
        if isinstance(value, list | tuple) and len(value) > 1 and all(map(_is_tensor, value)):
            matrices = [inner for inner in value if inner.ndim > 1 and _is_floating(inner)]
            found |= (
                {path: {str(i): inner for i, inner in enumerate(value)}} if matrices else {}
            )  # weights without names
        if not isinstance(value, Mapping) or "param_groups" in value:
            continue
        tensors = {str(key): inner for key, inner in value.items() if _is_tensor(inner)}
        if len(tensors) != sum(_is_tensor(inner) for inner in value.values()):
            raise ValueError(f"two weights have one name under {weights.shown(path) or 'the top'}")
        if not any(inner.ndim and _is_floating(inner) for inner in tensors.values()):
            continue
        rest = {str(key): inner for key, inner in value.items() if str(key) not in tensors and str(key) not in below}
        dotted = any("." in name for name in tensors)
        if below and not dotted:  # a mean, say, beside the weights
            continue
        (mixed if rest and not dotted else found)[path] = tensors | rest
    return found or mixed


def arrays(state: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """Return tensors as arrays, and leave out counters: whole numbers without axes, such as `num_batches_tracked`.

    Args:
        state: name → tensor.
        name: what an error message calls the file.

    Returns:
        Name → array, in the dtype of the tensor.

    Raises:
        ValueError: if a value is no tensor, or one of no dtype that weights have.
    """
    others = [key for key, tensor in state.items() if not _is_tensor(tensor)]
    if others:
        raise ValueError(f"{name} must hold tensors only, got something else under {weights.listed(others)}")
    kept = {key: tensor for key, tensor in state.items() if tensor.ndim or _is_floating(tensor)}
    return {key: _array(tensor, key, name) for key, tensor in kept.items()}


def _array(tensor: Any, key: str, name: str) -> np.ndarray:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in {kind.name for kind in weights.FLOATS.values()}:
        floats = ", ".join(weights.FLOATS)
        raise ValueError(f"weights must be floating point ({floats}) but {weights.shown(key)} of {name} is {dtype}")
    if isinstance(tensor, np.ndarray):
        return np.asarray(tensor, tensor.dtype.newbyteorder("="), order="C")
    import torch

    try:
        dense = tensor.detach().to_dense().contiguous()
        if dense.dtype == torch.bfloat16:  # NumPy has none of its own
            return dense.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return dense.numpy()
    except Exception as error:  # meta tensors, tensors over several machines, more bytes than there are
        reason = " ".join(str(error).split())[:100]
        raise ValueError(
            f"{weights.shown(key)} of {name} cannot be read as an array ({reason}): save it again as a tensor"
        ) from None


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor | np.ndarray)


def _is_floating(tensor: Any) -> bool:
    return "float" in str(tensor.dtype)


def _below(value: Any) -> dict[str, Any]:
    """Return the mappings and lists in a value, but for what an optimizer keeps."""
    if isinstance(value, Mapping):
        if "param_groups" in value:
            return {}
        entries = {str(key): inner for key, inner in value.items() if isinstance(key, str)}
    elif isinstance(value, list | tuple):
        entries = {str(place): inner for place, inner in enumerate(value)}
    else:
        return {}
    return {key: inner for key, inner in entries.items() if isinstance(inner, Mapping | list | tuple)}


def _plain_types() -> list[Any]:
    """List what may be unpickled beside tensors: types that hold values, made by code of Python's, NumPy's and ours."""
    import torch

    plain: list[Any] = [argparse.Namespace, types.SimpleNamespace, decimal.Decimal, collections.Counter]
    plain += [datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone]
    plain += [torch.Size, torch.device, torch.torch_version.TorchVersion]
    plain += [dict, list, tuple, int, float, str, bool, frozenset, slice]
    # PyTorch fills no other mappings and lists than Python's own, so these become that.
    plain += [(_mapping, "collections.defaultdict"), (_list, "collections.deque")]
    for module in ("pathlib", "pathlib._local"):
        plain += [(pathlib.PurePosixPath, f"{module}.{name}") for name in ("PosixPath", "PurePosixPath", "Path")]
        plain += [(pathlib.PureWindowsPath, f"{module}.{name}") for name in ("WindowsPath", "PureWindowsPath")]
    pickled = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        plain += [(pickled[0], f"{module}.scalar"), (pickled[1], f"{module}._reconstruct")]
    plain += [np.ndarray, np.dtype, *(getattr(np.dtypes, f"{name}DType") for name in NUMPY_DTYPES)]
    return plain


def _mapping(*_: Any) -> dict:
    return {}


def _list(values: Iterable = (), *_: Any) -> list:
    return list(values)
