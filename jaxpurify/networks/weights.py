"""Weights of networks: state dicts of other people into NNX modules, and our own to and from safetensors files."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx

from jaxpurify.files import expanded, write_whole
from jaxpurify.networks import formats

Value = TypeVar("Value")
State = Mapping[str, np.ndarray]
# What a checkpoint of PyTorch holds and nothing here needs: how many batches the running averages have seen.
IGNORED_SUFFIX = "num_batches_tracked"
FLOATS = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
COUNTERS = ("I", "U", "BOOL")  # how the dtypes of whole numbers begin
NAMES_SHOWN, CHARACTERS_SHOWN = 12, 120


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
    """Read a safetensors file, or several by their index (`*.safetensors.index.json`).

    Args:
        path: the file, or the index of files that lie beside it.

    Returns:
        Name → array, in the dtype of the file (float16 and bfloat16 stay what they are). Counters are left out: whole
        numbers without axes, such as `num_batches_tracked`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated or something else, such as a PyTorch checkpoint: the message says what.
    """
    path = expanded(path)
    content = _bytes(path)
    if formats.recognise(BytesIO(content), str(path)) != formats.INDEX:
        return parse(content, str(path))
    state: dict[str, np.ndarray] = {}
    for file, names in shards(content, path).items():
        held = parse(_bytes(file), str(file))
        state |= of_shard(held, names, file)
    return state


def metadata(path: str | os.PathLike) -> dict[str, str]:
    """Return what a safetensors file, or the first that an index names, says about itself.

    Args:
        path: the file, or the index of files that lie beside it.

    Returns:
        Name → text; empty where it says nothing.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    path = expanded(path)
    with path.open("rb") as file:
        kind = formats.recognise(file, str(path))
        if kind != formats.INDEX:
            file.seek(0)
            return formats.metadata(file)
    return metadata(next(iter(shards(path.read_bytes(), path))))


def shards(content: bytes, path: Path) -> dict[Path, list[str]]:
    """Return the files that an index names, and the names of the weights in each.

    Args:
        content: the index.
        path: where it lies.

    Returns:
        File → names.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if it is no whole index.
    """
    found: dict[Path, list[str]] = {}
    for name, file in formats.index(content, str(path)).items():
        found.setdefault(path.with_name(file), []).append(name)
    absent = [str(file) for file in found if not file.is_file()]
    if absent:
        raise FileNotFoundError(f"{path} names files that are not there: {listed(absent)}")
    return found


def of_shard(held: Mapping[str, Value], names: Iterable[str], file: Path) -> dict[str, Value]:
    """Return the weights that an index places in a file; counters may be missing.

    Args:
        held: name → weight, what the file holds.
        names: what the index says of it.
        file: what an error message names.

    Returns:
        Name → weight.

    Raises:
        ValueError: if the file lacks some.
    """
    absent = [name for name in names if name not in held and not name.endswith(IGNORED_SUFFIX)]
    if absent:
        raise ValueError(f"{file} lacks what the index of shards places in it: {listed(absent)}")
    return {name: held[name] for name in names if name in held}


def parse(content: bytes, name: str) -> dict[str, np.ndarray]:
    """Read the content of a safetensors file.

    Args:
        content: the bytes of the file.
        name: what an error message calls the file.

    Returns:
        As from `read`.

    Raises:
        ValueError: if it is truncated or something else, such as a PyTorch checkpoint: the message says what.
    """
    from safetensors import SafetensorError, deserialize

    if formats.recognise(BytesIO(content), name) in (formats.TORCH, formats.INDEX):
        raise ValueError(
            f"{name} looks like a PyTorch checkpoint or a pickle, not a safetensors file: "
            f"convert it first with `jaxpurify convert {name} weights.safetensors`"
        )
    try:
        tensors = deserialize(content)
    except SafetensorError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{name} is not a whole safetensors file ({reason}): was it truncated while it was copied or downloaded?"
        ) from None
    state = {}
    for key, tensor in tensors:
        if key.endswith(IGNORED_SUFFIX) or (not tensor["shape"] and tensor["dtype"].startswith(COUNTERS)):
            continue
        if tensor["dtype"] not in FLOATS:
            raise ValueError(
                f"weights must be floating point ({', '.join(FLOATS)}) but {shown(key)} of {name} is {tensor['dtype']}"
            )
        state[key] = np.frombuffer(tensor["data"], FLOATS[tensor["dtype"]]).reshape(tensor["shape"])
    return state


def prefixes(names: Iterable[str]) -> list[str]:
    """Return all beginnings that names share, the empty one first, as long as something is left of each name.

    Args:
        names: names of weights.

    Returns:
        "", "m", "mo", … for names that begin with "module.".
    """
    names = list(names)
    first, last = min(names, default=""), max(names, default="")
    longest = max(min(map(len, names), default=0) - 1, 0)
    shared = next((place for place in range(longest) if first[place] != last[place]), longest)
    return [first[:length] for length in range(shared + 1)]


def without(state: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """Return weights without a beginning that all their names share.

    Args:
        state: name → anything.
        prefix: the beginning.

    Returns:
        Shorter name → the same.
    """
    return {name[len(prefix) :]: value for name, value in state.items()}


def load(module: nnx.Module, state: State, *, table: Mapping[str, Entry] | None = None, name: str = "") -> None:
    """Load a state dict into a module, in place: everything is checked first, so that it loads whole or not at all.

    Args:
        module: the network.
        state: name → array; floating point of any width becomes float32. `num_batches_tracked` is ignored, and so is
            a beginning that all names share where what is left fits.
        table: name in the state dict → where the weight lives; by default the module's own names and layouts.
        name: what an error message calls the architecture; by default the module's class.

    Returns:
        Nothing: the module is changed.

    Raises:
        ValueError: if weights are missing, surplus, of another shape, or not finite: the message names them.
    """
    table = own_table(module) if table is None else table
    state = next((left for left in _shortened(state) if same_names(left, table)), state)
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
        metadata: what the file says about itself: text only. The border of a network that has one to choose is added,
            since weights are of use with that one only.
    """
    from safetensors.numpy import save as serialise

    arrays = {key: np.asarray(variable[...]) for key, variable in _variables(module).items()}
    border = {"border": module.border} if hasattr(module, "border") else {}
    content = serialise(arrays, metadata=border | dict(metadata or {}))
    write_whole(path, lambda file: file.write(content))


def _shortened(state: State) -> Iterator[State]:
    return (without(state, prefix) for prefix in prefixes(state))


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
    return ", ".join(map(shown, names[:NAMES_SHOWN])) + (f" and {more} more" if more > 0 else "")


def shown(name: str) -> str:
    """Return a name that came from a file as a message shows it: on one line, and not for pages.

    Args:
        name: any text.

    Returns:
        The text, or what it begins with, with escapes in the place of what cannot be printed.
    """
    name = name if name.isprintable() else ascii(name)[1:-1]
    return name if len(name) <= CHARACTERS_SHOWN else f"{name[:CHARACTERS_SHOWN]}…"
