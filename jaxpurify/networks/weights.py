"""Weights of networks: state dicts of other people into NNX modules, and our own to and from safetensors files."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx

from jaxpurify.files import expanded, write_whole

State = Mapping[str, np.ndarray]
# What a checkpoint of PyTorch holds and nothing here needs: how many batches the running averages have seen.
IGNORED_SUFFIX = "num_batches_tracked"
FLOATS = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
CHECKPOINT_SUFFIXES = (".th", ".pth", ".pt", ".pkl", ".pickle", ".bin", ".ckpt", ".tar")
CHECKPOINT_BEGINNINGS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
NAMES_SHOWN = 12


class MismatchError(ValueError):
    """Weights that are not those of the network: another architecture's, most often."""


class Layout(NamedTuple):
    """How the axes of an array lie in a state dict and here."""

    decode: Callable[[np.ndarray], np.ndarray]
    encode: Callable[[np.ndarray], np.ndarray]


class Entry(NamedTuple):
    """Where a weight of a state dict lives in a module ("blocks.0.first.conv.kernel"), and its layout there."""

    path: str
    layout: Layout = Layout(np.asarray, np.asarray)


CONVOLUTION = Layout(lambda theirs: theirs.transpose(2, 3, 1, 0), lambda ours: ours.transpose(3, 2, 0, 1))
LINEAR = Layout(np.transpose, np.transpose)


def flattened(channels: int, height: int, width: int) -> Layout:
    """Return the layout of a linear layer that follows a flattening of (channel, height, width).

    Args:
        channels: channels of what was flattened.
        height: its rows.
        width: its columns.

    Returns:
        A layout whose inputs are (height, width, channel) here.
    """

    def decode(theirs: np.ndarray) -> np.ndarray:
        return theirs.reshape(-1, channels, height, width).transpose(2, 3, 1, 0).reshape(-1, theirs.shape[0])

    def encode(ours: np.ndarray) -> np.ndarray:
        return ours.reshape(height, width, channels, -1).transpose(3, 2, 0, 1).reshape(ours.shape[1], -1)

    return Layout(decode, encode)


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read a safetensors file.

    Args:
        path: the file.

    Returns:
        Name → array, in the dtype of the file (float16 and bfloat16 stay what they are).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a PyTorch checkpoint, truncated, or no safetensors file.
    """
    return parse(_bytes(expanded(path)), str(path))


def parse(content: bytes, name: str) -> dict[str, np.ndarray]:
    """Read the content of a safetensors file.

    Args:
        content: the bytes of the file.
        name: what an error message calls the file.

    Returns:
        Name → array, in the dtype of the file.

    Raises:
        ValueError: if it is a PyTorch checkpoint, truncated, or no safetensors file.
    """
    from safetensors import SafetensorError, deserialize

    # A safetensors header may not begin like this: its first eight bytes are a length, the ninth is "{".
    if content[8:9] != b"{" and (content.startswith(CHECKPOINT_BEGINNINGS) or name.endswith(CHECKPOINT_SUFFIXES)):
        raise ValueError(
            f"{name} looks like a PyTorch checkpoint or a pickle, not a safetensors file: "
            f"convert it first with `jaxpurify convert {name} weights.safetensors`"
        )
    try:
        tensors = deserialize(content)
    except SafetensorError as error:
        raise ValueError(
            f"{name} is not a whole safetensors file ({error}): was it truncated while it was copied or downloaded?"
        ) from None
    state = {}
    for key, tensor in tensors:
        if key.endswith(IGNORED_SUFFIX):
            continue
        if tensor["dtype"] not in FLOATS:
            raise ValueError(
                f"weights must be floating point ({', '.join(FLOATS)}) but {key} of {name} is {tensor['dtype']}"
            )
        state[key] = np.frombuffer(tensor["data"], FLOATS[tensor["dtype"]]).reshape(tensor["shape"])
    return state


def load(module: nnx.Module, state: State, *, table: Mapping[str, Entry] | None = None, name: str = "") -> None:
    """Load a state dict into a module, in place: everything is checked first, so that it loads whole or not at all.

    Args:
        module: the network.
        state: name → array; floating point of any width becomes float32. `num_batches_tracked` is ignored.
        table: name in the state dict → where the weight lives; by default the module's own names and layouts.
        name: what an error message calls the architecture; by default the module's class.

    Returns:
        Nothing: the module is changed.

    Raises:
        ValueError: if weights are missing, surplus, of another shape, or not finite: the message names them.
    """
    table = own_table(module) if table is None else table
    differences = mismatch(module, {key: array.shape for key, array in state.items()}, table=table)
    if differences:
        raise MismatchError(f"the weights do not fit {name or type(module).__name__}: {differences}")
    new = {key: np.asarray(state[key]).astype(np.float32) for key in table}
    broken = [key for key, array in new.items() if not np.isfinite(array).all()]
    if broken:
        raise ValueError(f"weights must be finite numbers, got NaN or infinity in {listed(broken)}")
    variables = _variables(module)
    for key, array in new.items():
        entry = table[key]
        variables[entry.path].set_value(jnp.asarray(entry.layout.decode(array)))


def mismatch(
    module: nnx.Module, shapes: Mapping[str, tuple[int, ...]], *, table: Mapping[str, Entry] | None = None
) -> str:
    """Compare names and shapes with those of a module.

    Args:
        module: the network; an abstract one (`nnx.eval_shape`) does.
        shapes: name → shape. `num_batches_tracked` is ignored.
        table: as in `load`.

    Returns:
        What is missing, surplus and of another shape; empty where `load` would take them.
    """
    expected = expected_shapes(module, own_table(module) if table is None else table)
    shapes = {key: tuple(shape) for key, shape in shapes.items() if not key.endswith(IGNORED_SUFFIX)}
    kinds = {
        "missing": [key for key in expected if key not in shapes],
        "surplus": sorted(key for key in shapes if key not in expected),
        "of another shape": [
            f"{key} (expected {expected[key]}, got {shape})"
            for key, shape in shapes.items()
            if key in expected and shape != expected[key]
        ],
    }
    return "; ".join(f"{kind}: {listed(names)}" for kind, names in kinds.items() if names)


def expected_shapes(module: nnx.Module, table: Mapping[str, Entry]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that a state dict must have.

    Args:
        module: the network; an abstract one (`nnx.eval_shape`) does.
        table: as in `load`.

    Returns:
        Name in the state dict → shape in its layout.

    Raises:
        ValueError: if the table does not name the weights of this module.
    """
    variables = _variables(module)
    unlike = sorted({entry.path for entry in table.values()} ^ set(variables))
    if unlike:
        raise ValueError(f"the table of names and {type(module).__name__} differ in {listed(unlike)}")
    return {
        name: entry.layout.encode(np.broadcast_to(np.float32(0), variables[entry.path].shape)).shape
        for name, entry in table.items()
    }


def same_names(names: Iterable[str], table: Mapping[str, Entry]) -> bool:
    """Tell whether names are those of a table, shapes aside; `num_batches_tracked` is ignored.

    Args:
        names: names in a state dict.
        table: names of an architecture.

    Returns:
        True where they are the same.
    """
    return {name for name in names if not name.endswith(IGNORED_SUFFIX)} == set(table)


def own_table(module: nnx.Module) -> dict[str, Entry]:
    """Return the table of a module's own names and layouts, those that `save` writes.

    Args:
        module: the network.

    Returns:
        Name → where the weight lives, which is the same.
    """
    return {path: Entry(path) for path in _variables(module)}


def save(module: nnx.Module, path: str | os.PathLike, *, metadata: Mapping[str, str] | None = None) -> None:
    """Save the weights of a module to a safetensors file, in its own names and layouts; whole or not at all.

    Args:
        module: the network.
        path: the file; its folder must exist.
        metadata: what the file says about itself: text only.
    """
    from safetensors.numpy import save as serialise

    arrays = {key: np.asarray(variable[...]) for key, variable in _variables(module).items()}
    content = serialise(arrays, metadata=dict(metadata or {}))
    write_whole(path, lambda file: file.write(content))


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"there is no weight file {path}" + (" (it is a folder)" if path.is_dir() else ""))
    return path.read_bytes()


def _variables(module: nnx.Module) -> dict[str, nnx.Variable]:
    """Name every weight and running average of a module: "blocks.0.first.conv.kernel"."""
    found = nnx.to_flat_state(nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat)))
    return {".".join(str(part) for part in path): variable for path, variable in found}


def listed(names: list[str]) -> str:
    """Return names as a message shows them: the first dozen, and how many more there are.

    Args:
        names: any names.

    Returns:
        One line.
    """
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
