"""PyTorch checkpoints to safetensors files, without running a line of what a pickle might hold."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxpurify.files import check_apart, expanded, write_whole
from jaxpurify.networks import formats, matching, registry, unpickling, weights


class Conversion(NamedTuple):
    """What a conversion found: the architecture that the weights fit (None: no registered one), and how many.

    `key` is the path under which they lay in the checkpoint ("" where they were the checkpoint), `others` are the paths
    of further sets of weights, which were not taken, `prefix` went from the beginning of all names, and `advice` says
    what may be the matter with weights that fit no registered network.
    """

    architecture: str | None
    entries: int
    parameters: int
    key: str = ""
    others: tuple[str, ...] = ()
    prefix: str = ""
    advice: str = ""


def convert(
    source: str | os.PathLike, target: str | os.PathLike, *, architecture: str | None = None, key: str | None = None
) -> Conversion:
    """Convert a PyTorch checkpoint into a safetensors file, with PyTorch's names.

    The weights may lie anywhere in it; where there are several sets, `key` has to choose. What all names begin with
    ("module.", "_orig_mod.model.") goes where what is left fits a registered network. Safetensors files with such
    names, and shards with an index, are taken too. Tensors and plain values are unpickled: a checkpoint that names any
    other code is refused, and none of it runs.

    Args:
        source: the checkpoint (`.th`, `.pth`, `.pt`, `.safetensors`, `.index.json`).
        target: the safetensors file; written whole or not at all. Its metadata names the architecture, and the
            border where the source's does.
        architecture: the registered network that the weights are expected to fit; None to find out.
        key: the path of the weights in the checkpoint, with dots ("state_dict_ema"), or a beginning of names, up to a
            dot, of those that are wanted; None where there is one set.

    Returns:
        The architecture that they fit, the number of weights and of parameters in them; fixed ones (the mean shift that
        EDSR's state dicts hold) are written too, but not counted. Counters are not written.

    Raises:
        FileNotFoundError: if there is no such checkpoint or no folder for the target.
        ImportError: if PyTorch is needed and not installed.
        ValueError: if the checkpoint is truncated, is or holds something else than weights, wants to run code, holds
            several sets of weights and no key chose, is not finite, or does not fit the architecture.
    """
    source, target = expanded(source), expanded(target)
    check_apart(target, [source])
    if architecture is not None:
        registry.architecture(architecture)
    if not source.is_file():
        raise FileNotFoundError(f"there is no checkpoint {source}" + (" (it is a folder)" if source.is_dir() else ""))
    with source.open("rb") as file:
        kind = formats.recognise(file, str(source))
    if kind == formats.INDEX:
        check_apart(target, weights.shards(source.read_bytes(), source))
    sets = {"": weights.read(source)} if kind == formats.SAFETENSORS else _sets(source, kind)
    path, state = _chosen(sets, key, source)
    chosen = key if key and not path.startswith(key) else path
    state = unpickling.arrays(state, str(source))
    if not state:
        raise ValueError(f"{source} must hold named weights (a state dict, at any depth), got nothing")
    broken = [name for name, array in state.items() if not np.isfinite(array).all()]
    if broken:
        raise ValueError(f"weights must be finite numbers, got NaN or infinity in {weights.listed(broken)} of {source}")
    shapes = {name: array.shape for name, array in state.items()}
    found, prefix = matching.fit(shapes) or (None, "")
    if architecture is not None and found != architecture:
        raise ValueError(f"the weights of {source} do not fit {architecture}: {matching.misfit(architecture, shapes)}")
    if found is None:
        _refuse_twice(shapes, source)
    elif kind == formats.SAFETENSORS and not prefix and not chosen:
        raise ValueError(f"{source} is a safetensors file already, and fits {found}: pass it as weights=")
    state = weights.without(state, prefix)
    fixed = registry.architecture(found).fixed if found else ()
    counted = [array for name, array in state.items() if not name.endswith((weights.IGNORED_SUFFIX, *fixed))]

    from safetensors.numpy import save

    said = weights.metadata(source) if kind in (formats.SAFETENSORS, formats.INDEX) else {}
    kept = {"border": said["border"]} if "border" in said else {}
    content = save(state, metadata={"format": "pt"} | ({"architecture": found} if found else {}) | kept)
    write_whole(target, lambda file: file.write(content))
    others = tuple(other or "(the file itself)" for other in sets if other != path)
    advice = "" if found else matching.advice(shapes)
    return Conversion(found, len(counted), sum(array.size for array in counted), chosen, others, prefix, advice)


def _sets(source: Path, kind: str) -> dict[str, dict[str, Any]]:
    """Read the sets of weights that a file, or the shards of an index, hold."""
    if kind != formats.INDEX:
        checkpoint = unpickling.load(source)
        try:
            sets = unpickling.sets(checkpoint)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
        if not sets:
            got = "nothing" if isinstance(checkpoint, Mapping) and not checkpoint else type(checkpoint).__name__
            raise ValueError(f"{source} must hold named weights (a state dict, at any depth), got {got}")
        return sets
    state: dict[str, Any] = {}
    for file, names in weights.shards(source.read_bytes(), source).items():
        with file.open("rb") as opened:
            shard = formats.recognise(opened, str(file))
        if shard == formats.SAFETENSORS:
            held: Mapping[str, Any] = weights.read(file)
        else:
            held = _chosen(_sets(file, formats.TORCH), None, file)[1]
        state |= weights.of_shard(held, names, file)
    return {"": state}


def _chosen(sets: dict[str, dict[str, Any]], key: str | None, source: Path) -> tuple[str, dict[str, Any]]:
    """Return the path of the one set of weights, or of that which a key names, and what is wanted of it."""
    keys = weights.listed([path or "(the file itself)" for path in sets])
    if key is None:
        if len(sets) > 1:
            raise ValueError(f"{source} holds several sets of weights, under {keys}: choose one by its key (--key)")
        return next(iter(sets.items()))
    if key in sets:
        return key, sets[key]
    below = [path for path in sets if path.startswith(f"{key}.")]
    if len(below) == 1:
        return below[0], sets[below[0]]
    if not below:
        found = [(path, part) for path, state in sets.items() if (part := _part(state, path, key))]
        if len(found) == 1:
            return found[0]
        below = [path or "(the file itself)" for path, _ in found]
    what = f"several sets of weights, {weights.listed(below)}," if below else "no weights"
    raise ValueError(f"{source} holds {what} under the key {key!r}, expected one of: {keys}")


def _part(state: Mapping[str, Any], path: str, key: str) -> dict[str, Any]:
    """Return the weights whose names, or path and names, begin with a key, without it."""
    for begin in {f"{key}.", f"{key}.".removeprefix(f"{path}.")} - {""}:
        part = {name[len(begin) :]: value for name, value in state.items() if name.startswith(begin)}
        if part:
            return part
    return {}


def _refuse_twice(shapes: registry.Shapes, source: Path) -> None:
    """Refuse names that are there with and without a beginning, where either are the weights of a network."""
    beginnings = {name[: place + 1] for name in shapes for place, mark in enumerate(name) if mark == "."}
    for prefix in sorted(beginnings):
        part = {name[len(prefix) :]: shape for name, shape in shapes.items() if name.startswith(prefix)}
        rest = {name: shape for name, shape in shapes.items() if not name.startswith(prefix)}
        twice = sorted(part.keys() & rest.keys())
        if twice and (registry.identify(part) or registry.identify(rest)):
            begin, first = weights.shown(prefix), weights.shown(twice[0])
            raise ValueError(
                f"{source} holds {len(twice)} weights twice, with and without {begin} before the name (the first is "
                f"{first}): take the first ones alone with the key {begin[:-1]} (--key), or save one of the two"
            )
