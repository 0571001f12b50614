"""The networks known by name: how each is constructed, how its weights are named, and which weights are shipped."""

import hashlib
import os
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any, NamedTuple

from flax import nnx

from jaxpurify import models
from jaxpurify.datasets.photos import CLASS_NAMES as PHOTOS_CLASSES
from jaxpurify.networks import resnet, weights
from jaxpurify.networks.photos_cnn import PhotosCNN


class Shipped(NamedTuple):
    """A weight file of the package's folder `shipped`, and the SHA-256 of its bytes."""

    file: str
    sha256: str


class Architecture(NamedTuple):
    """A network that can be asked for by name."""

    construct: Callable[[nnx.Rngs], nnx.Module]
    class_names: tuple[str, ...]
    table: Callable[[], dict[str, weights.Entry]] | None = None
    image_shape: tuple[int, int, int] | None = None
    shipped: Shipped | None = None

    def abstract(self) -> nnx.Module:
        """Return the network without weights: constructing them would take longer than loading better ones."""
        return nnx.eval_shape(lambda: self.construct(nnx.Rngs(0)))

    def names_of(self, module: nnx.Module) -> dict[str, weights.Entry]:
        """Return the table of names of its weights: its own names where it was never anybody else's."""
        return weights.own_table(module) if self.table is None else self.table()


def _cifar_resnet(depth: int) -> Architecture:
    return Architecture(
        construct=lambda rngs: resnet.CifarResNet(depth, rngs=rngs),
        table=lambda: resnet.cifar_resnet_table(depth),
        class_names=resnet.CIFAR_CLASSES,
    )


ARCHITECTURES: Mapping[str, Architecture] = {
    "photos-cnn": Architecture(
        construct=lambda rngs: PhotosCNN(rngs=rngs),
        class_names=PHOTOS_CLASSES,
        shipped=Shipped("photos-cnn.safetensors", "60369d9de553ee8a5b5098b04f6a8907d0ae087dd3e116f161de6f62c52c198c"),
    ),
    **{f"cifar-resnet{depth}": _cifar_resnet(depth) for depth in (20, 32, 44, 56, 110)},
    "cifar-resnet4b": Architecture(
        construct=lambda rngs: resnet.CifarResNet4b(rngs=rngs),
        table=resnet.cifar_resnet4b_table,
        class_names=resnet.CIFAR_CLASSES,
        image_shape=resnet.CifarResNet4b.image_shape,
    ),
}


def names() -> tuple[str, ...]:
    """Return the names of the registered networks.

    Returns:
        What `load_classifier` takes.
    """
    return tuple(ARCHITECTURES)


def architecture(name: str) -> Architecture:
    """Return a registered network.

    Args:
        name: one of `names()`.

    Returns:
        Its constructor, table of names and weights.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"there is no network {name!r}: the known ones are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def identify(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Find the registered network that names and shapes of weights belong to.

    Args:
        shapes: name → shape, as in a state dict.

    Returns:
        Its name, or None.
    """
    for name, known in ARCHITECTURES.items():
        if known.table is not None and not weights.same_names(shapes, known.table()):
            continue  # A module is constructed only where that could still make a difference.
        module = known.abstract()
        if not weights.mismatch(module, shapes, table=known.names_of(module)):
            return name
    return None


def load_module(name: str, *, weights_file: str | os.PathLike | None = None) -> nnx.Module:
    """Load a registered network with its weights, as a Flax NNX module in evaluation mode.

    Args:
        name: one of `names()`.
        weights_file: a safetensors file in PyTorch's names (what `jaxpurify convert` writes) or, for the networks of
            this library, in its own; None for weights that are shipped.

    Returns:
        The module.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the name is unknown, weights are needed, or the file does not fit.
    """
    known = architecture(name)
    if weights_file is None:
        if known.shipped is None:
            raise ValueError(
                f"{name} comes without weights: pass weights=, a safetensors file "
                f"(`jaxpurify convert` makes one of a PyTorch checkpoint)"
            )
        state = _read_shipped(known.shipped)
    else:
        state = weights.read(weights_file)
    module = known.abstract()
    try:
        weights.load(module, state, table=known.names_of(module), name=name)
    except weights.MismatchError as error:
        other = identify({key: array.shape for key, array in state.items()})
        raise ValueError(f"{error}" + (f"; they fit {other}" if other else "")) from None
    module.eval()
    return module


def load_classifier(name: str, *, weights: str | os.PathLike | None = None) -> Any:
    """Load a registered network with its weights, as a classifier.

    Args:
        name: one of `names()`: "photos-cnn", "cifar-resnet20", …, "cifar-resnet4b".
        weights: a safetensors file in PyTorch's names, as `jaxpurify convert` writes it; None for weights that are
            shipped ("photos-cnn").

    Returns:
        A pytree that takes images (batch, height, width, 3) in [0, 1] and returns logits (batch, classes).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the name is unknown, weights are needed, or the file is no safetensors file, truncated, of
            another architecture, or not finite.

    Example:
        >>> import jax, jaxpurify as jp
        >>> classifier = jp.networks.load_classifier("photos-cnn")
        >>> classifier(jax.numpy.zeros((2, 32, 32, 3))).shape
        (2, 8)
    """
    known = architecture(name)
    module = load_module(name, weights_file=weights)
    return models.classifier(module, name=name, class_names=known.class_names, image_shape=known.image_shape)


def _read_shipped(shipped: Shipped) -> dict[str, Any]:
    file = resources.files("jaxpurify.networks").joinpath("shipped", shipped.file)
    if not file.is_file():
        raise FileNotFoundError(f"the shipped weights {shipped.file} are not there: install jaxpurify again")
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != shipped.sha256:
        raise ValueError(
            f"the shipped weights {shipped.file} were changed (SHA-256 {digest}, expected {shipped.sha256}): "
            f"install jaxpurify again"
        )
    return weights.parse(content, shipped.file)
