"""PyTorch checkpoints to safetensors files, without running a line of what a pickle might hold."""

import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxpurify.files import check_apart, expanded, write_whole
from jaxpurify.networks import registry, weights

NESTS = ("state_dict", "model_state_dict", "model", "net")
PREFIX = "module."


class Conversion(NamedTuple):
    """What a conversion found: the architecture that the weights fit (None: no registered one), and how many."""

    architecture: str | None
    entries: int
    parameters: int


def convert(source: str | os.PathLike, target: str | os.PathLike, *, architecture: str | None = None) -> Conversion:
    """Convert a PyTorch checkpoint into a safetensors file, with PyTorch's names.

    The weights may lie under `state_dict`, `model` or `net`, and their names may begin with `module.` (which goes).
    Only tensors are unpickled: a checkpoint that names any code is refused, and none of it runs.

    Args:
        source: the checkpoint (`.th`, `.pth`, `.pt`).
        target: the safetensors file; written whole or not at all. Its metadata names the architecture.
        architecture: the registered network that the weights are expected to fit; None to find out.

    Returns:
        The architecture that they fit, the number of weights and of parameters in them; fixed ones (the mean shift that
        EDSR's state dicts hold) are written too, but not counted.

    Raises:
        FileNotFoundError: if there is no such checkpoint or no folder for the target.
        ImportError: if PyTorch is not installed.
        ValueError: if the checkpoint is truncated, holds something else than weights, wants to run code, is not finite
            or does not fit the architecture.
    """
    source, target = expanded(source), expanded(target)
    check_apart(target, [source])
    if architecture is not None:
        registry.architecture(architecture)
    state = _state_dict(_load(source), source)
    broken = [key for key, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"weights must be finite numbers, got NaN or infinity in {weights.listed(broken)} of {source}")
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    found = registry.identify(shapes)
    if architecture is not None and found != architecture:
        _refuse(architecture, found, shapes, source)
    fixed = registry.architecture(found).fixed if found else ()
    ignored = (weights.IGNORED_SUFFIX, *fixed)
    counted = [tensor for key, tensor in state.items() if not key.endswith(ignored)]

    from safetensors.torch import save

    metadata = {"format": "pt"} | ({"architecture": found} if found else {})
    content = save(state, metadata=metadata)
    write_whole(target, lambda file: file.write(content))
    return Conversion(found, len(counted), sum(tensor.numel() for tensor in counted))


def _load(source: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise ImportError("converting needs PyTorch: pip install 'jaxpurify[torch]'") from None

    if not source.is_file():
        raise FileNotFoundError(f"there is no checkpoint {source}" + (" (it is a folder)" if source.is_dir() else ""))
    with source.open("rb") as file:
        if file.read(9)[8:] == b"{":
            raise ValueError(f"{source} is a safetensors file already: pass it as weights=")
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        held = f"names code to run ({code[1]})" if code else "holds something else than weights"
        raise ValueError(
            f"{source} {held}, so it was refused and nothing in it ran: save the weights alone, as "
            f"torch.save(model.state_dict(), ...), or copy the file again if it was truncated"
        ) from None
    except Exception as error:  # torch.load raises whatever its parsers raise: KeyError, EOFError, RuntimeError, ...
        raise ValueError(
            f"{source} is not a whole PyTorch checkpoint of weights ({type(error).__name__}): was it truncated while "
            f"it was copied or downloaded?"
        ) from None


def _state_dict(checkpoint: Any, source: Path) -> dict[str, Any]:
    import torch

    while isinstance(checkpoint, Mapping) and (nested := [nest for nest in NESTS if _is_mapping(checkpoint, nest)]):
        checkpoint = checkpoint[nested[0]]
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        raise ValueError(
            f"{source} must hold named weights (a state dict, or one under {', '.join(NESTS)}), "
            f"got {'nothing' if isinstance(checkpoint, Mapping) else type(checkpoint).__name__}"
        )
    others = [str(key) for key, value in checkpoint.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ValueError(f"{source} must hold tensors only, got something else under {weights.listed(others)}")
    return {str(key).removeprefix(PREFIX): _plain(tensor) for key, tensor in checkpoint.items()}


def _is_mapping(checkpoint: Mapping, name: str) -> bool:
    return isinstance(checkpoint.get(name), Mapping)


def _plain(tensor: Any) -> Any:
    """Copy a tensor, since safetensors refuses those that share memory."""
    return tensor.detach().to_dense().clone().contiguous()


def _refuse(architecture: str, found: str | None, shapes: Mapping[str, tuple[int, ...]], source: Path) -> None:
    known = registry.architecture(architecture)
    module = known.abstract()
    trained = {key: shape for key, shape in shapes.items() if key not in known.fixed}
    mismatch = weights.mismatch(module, trained, table=known.names_of(module, trained))
    other = f"; they fit {found}" if found else ""
    raise ValueError(f"the weights of {source} do not fit {architecture}: {mismatch}{other}")
