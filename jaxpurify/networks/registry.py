"""The networks known by name: how each is constructed, how its weights are named, and which weights are shipped."""

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from io import BytesIO
from typing import Any, NamedTuple

from flax import nnx

from jaxpurify import classifiers
from jaxpurify.datasets.photos import CLASS_NAMES as PHOTOS_CLASSES
from jaxpurify.networks import blind_spot, edsr, formats, imagenet_resnet, resnet, weights
from jaxpurify.networks.blind_spot import BlindSpotNetwork, blind_spot_table
from jaxpurify.networks.imitation import ImitationNetwork
from jaxpurify.networks.photos_cnn import PhotosCNN
from jaxpurify.networks.sesr import CollapsedSESR

CLASSIFIER, IMAGES = "classifier", "images"
Shapes = Mapping[str, tuple[int, ...]]


class Shipped(NamedTuple):
    """A weight file of the package's folder `shipped`, and the SHA-256 of its bytes."""

    file: str
    sha256: str


# Of the weight files in the folder `shipped`, each beside the card that says how it came to be.
SHA256 = {
    "blind-spot": "b2039716a7f2fcac06d00973003e0bb1e899321118cc6b836fc26f47e208fe02",
    "edsr-baseline-x2": "8b7afc5de0293565e65db309559a6c4d79476acb6914a3ea47522a3eca209b70",
    "photos-cnn": "60369d9de553ee8a5b5098b04f6a8907d0ae087dd3e116f161de6f62c52c198c",
    "sesr-x2": "877a71209f3d8dbed35aa3b4ffabce776007e6b13fecbf8e8f821c043cacf7ba",
}


class Architecture(NamedTuple):
    """A network that can be asked for by name: a classifier, or (kind "images") one from images to images."""

    construct: Callable[..., nnx.Module]
    kind: str = CLASSIFIER
    class_names: tuple[str, ...] = ()
    table: Callable[[], dict[str, weights.Entry]] | None = None
    image_shape: tuple[int, int, int] | None = None
    shipped: Shipped | None = None
    # Names in published state dicts that are no trained weights, and what checks and removes them.
    fixed: tuple[str, ...] = ()
    without_fixed: Callable[[weights.State], weights.State] | None = None
    # What the network can read beyond the border, what published weights want first: `construct` takes one of them.
    borders: tuple[str, ...] = ()

    def abstract(self, border: str | None = None) -> nnx.Module:
        """Return the network without weights: constructing them would take longer than loading better ones."""
        chosen = {"border": border or self.borders[0]} if self.borders else {}
        return nnx.eval_shape(lambda: self.construct(nnx.Rngs(0), **chosen))

    def names_of(self, module: nnx.Module, names: Iterable[str] = ()) -> dict[str, weights.Entry]:
        """Return the table of names of its weights: its own where `names` are, or where it was never anybody else's."""
        own = weights.own_table(module)
        return own if self.table is None or weights.same_names(names, own) else self.table()


def _cifar_resnet(depth: int) -> Architecture:
    return Architecture(
        construct=lambda rngs: resnet.CifarResNet(depth, rngs=rngs),
        table=lambda: resnet.cifar_resnet_table(depth),
        class_names=resnet.CIFAR_CLASSES,
    )


def _imagenet_resnet(depth: int) -> Architecture:
    return Architecture(
        construct=lambda rngs: imagenet_resnet.ImageNetResNet(depth, rngs=rngs),
        table=lambda: imagenet_resnet.imagenet_resnet_table(depth),
        class_names=imagenet_resnet.IMAGENET_CLASSES,
    )


def _edsr(construct: Callable[..., edsr.EDSR], scale: int, *, blocks: int) -> Architecture:
    return Architecture(
        kind=IMAGES,
        construct=lambda rngs, border: construct(scale, border=border, rngs=rngs),
        borders=edsr.BORDERS,
        table=lambda: edsr.edsr_table(scale, blocks=blocks),
        fixed=edsr.MEAN_SHIFT,
        without_fixed=edsr.without_mean_shift,
    )


def _sesr(scale: int) -> Architecture:
    return Architecture(
        kind=IMAGES,
        construct=lambda rngs, border: CollapsedSESR(scale, border=border, rngs=rngs),
        borders=edsr.BORDERS,
    )


def _blind_spot(*, layers: int, width: int) -> Architecture:
    return Architecture(
        kind=IMAGES,
        construct=lambda rngs, border: BlindSpotNetwork(width=width, layers=layers, border=border, rngs=rngs),
        borders=blind_spot.BORDERS,
        table=lambda: blind_spot_table(layers=layers),
    )


_KNOWN: dict[str, Architecture] = {
    "photos-cnn": Architecture(
        construct=lambda rngs: PhotosCNN(rngs=rngs),
        class_names=PHOTOS_CLASSES,
    ),
    **{f"cifar-resnet{depth}": _cifar_resnet(depth) for depth in (20, 32, 44, 56, 110)},
    "cifar-resnet4b": Architecture(
        construct=lambda rngs: resnet.CifarResNet4b(rngs=rngs),
        table=resnet.cifar_resnet4b_table,
        class_names=resnet.CIFAR_CLASSES,
        image_shape=resnet.CifarResNet4b.image_shape,
    ),
    **{f"imagenet-resnet{depth}": _imagenet_resnet(depth) for depth in imagenet_resnet.STAGES},
    **{f"edsr-baseline-x{scale}": _edsr(edsr.EDSR.baseline, scale, blocks=16) for scale in edsr.SCALES},
    **{f"edsr-large-x{scale}": _edsr(edsr.EDSR.large, scale, blocks=32) for scale in edsr.SCALES},
    **{f"sesr-x{scale}": _sesr(scale) for scale in edsr.SCALES},
    "blind-spot": _blind_spot(layers=8, width=32),
    "imitation": Architecture(kind=IMAGES, construct=lambda rngs: ImitationNetwork(rngs=rngs)),
    **{f"blind-spot-{layers}x64": _blind_spot(layers=layers, width=64) for layers in (8, 17)},
}
ARCHITECTURES: Mapping[str, Architecture] = _KNOWN | {
    name: _KNOWN[name]._replace(shipped=Shipped(f"{name}.safetensors", digest)) for name, digest in SHA256.items()
}


def names(*, kind: str | None = CLASSIFIER) -> tuple[str, ...]:
    """Return the names of the registered networks.

    Args:
        kind: "classifier" for what `load_classifier` takes, "images" for what `load_network` takes, None for both.

    Returns:
        The names.

    Raises:
        ValueError: if the kind is another.
    """
    if kind not in (CLASSIFIER, IMAGES, None):
        raise ValueError(f'kind must be "classifier", "images" or None, got {kind!r}')
    return tuple(name for name, known in ARCHITECTURES.items() if kind in (known.kind, None))


def architecture(name: str) -> Architecture:
    """Return a registered network.

    Args:
        name: one of `names(kind=None)`.

    Returns:
        Its constructor, table of names and weights.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"there is no network {name!r}: the known ones are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def identify(shapes: Shapes) -> str | None:
    """Find the registered network that names and shapes of weights belong to.

    Args:
        shapes: name → shape, as in a state dict.

    Returns:
        Its name, or None.
    """
    return next((name for name in ARCHITECTURES if fits(name, shapes)), None)


def fits(name: str, shapes: Shapes) -> bool:
    """Tell whether weights are those of a registered network, in the published names or its own.

    Args:
        name: the network.
        shapes: name → shape, as in a state dict.

    Returns:
        True where all names and shapes are the same, fixed weights and counters aside.
    """
    mine = trained(name, shapes)
    # The shapes that a network needs are looked up only where that could still make a difference.
    if not any(mine.keys() == table for table in known_names(name)):
        return False
    return any(mine == table for table in expected(name))


def trained(name: str, shapes: Shapes) -> Shapes:
    """Return the names and shapes without those that a network fixes, and without counters.

    Args:
        name: the network.
        shapes: name → shape, as in a state dict.

    Returns:
        Those of trained weights.
    """
    left = {key: tuple(shape) for key, shape in shapes.items() if key not in ARCHITECTURES[name].fixed}
    return {key: shape for key, shape in left.items() if not key.endswith(weights.IGNORED_SUFFIX)}


@functools.cache
def known_names(name: str) -> tuple[frozenset[str], ...]:
    """Return the names of a network's weights without constructing it, where that is possible.

    Args:
        name: the network.

    Returns:
        The published ones and its own.
    """
    table = ARCHITECTURES[name].table
    if table is None:
        return tuple(frozenset(shapes) for shapes in expected(name))
    entries = table()
    return frozenset(entries), frozenset(entry.path for entry in entries.values())


@functools.cache
def expected(name: str) -> tuple[Shapes, ...]:
    """Return the names and shapes of a network's weights.

    Args:
        name: the network.

    Returns:
        The published ones and its own.
    """
    known = ARCHITECTURES[name]
    module = known.abstract()
    tables = [weights.own_table(module)] if known.table is None else [known.table(), weights.own_table(module)]
    return tuple(weights.expected_shapes(module, table) for table in tables)


def load_module(name: str, *, weights_file: str | os.PathLike | None = None) -> nnx.Module:
    """Load a registered network with its weights, as a Flax NNX module in evaluation mode.

    Args:
        name: one of `names(kind=None)`.
        weights_file: a safetensors file in PyTorch's names (what `jaxpurify convert` writes) or in the module's own;
            None for weights that are shipped. What a network reads beyond the border stands in the file's metadata,
            as `border`; where nothing stands there it is zeros, as in published weights.

    Returns:
        The module.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the name is unknown, weights are needed, or the file does not fit.
    """
    known = architecture(name)
    state: weights.State
    if weights_file is None:
        if known.shipped is None:
            raise ValueError(
                f"{name} comes without weights: pass weights=, a safetensors file "
                f"(`jaxpurify convert` makes one of a PyTorch checkpoint)"
            )
        state, said = _read_shipped(known.shipped)
    else:
        state, said = weights.read(weights_file), weights.metadata(weights_file)
    shapes = {key: array.shape for key, array in state.items()}
    prefix = next((begin for begin in weights.prefixes(state) if fits(name, weights.without(shapes, begin))), None)
    if prefix is None:
        from jaxpurify.networks.matching import misfit

        raise ValueError(f"the weights of {weights_file} do not fit {name}: {misfit(name, shapes)}")
    state = weights.without(state, prefix)
    try:
        module = known.abstract(said.get("border"))
        state = state if known.without_fixed is None else known.without_fixed(state)
        weights.load(module, state, table=known.names_of(module, state), name=name)
    except ValueError as error:  # not finite, or a border that the network does not know
        raise ValueError(f"{weights_file}: {error}") from None
    module.eval()
    return module


def load_classifier(name: str, *, weights: str | os.PathLike | None = None) -> Any:
    """Load a registered network with its weights, as a classifier.

    Args:
        name: one of `names()`: "photos-cnn", "cifar-resnet20", …, "imagenet-resnet18", ….
        weights: a safetensors file in PyTorch's names, as `jaxpurify convert` writes it, or the index of several; what
            all names begin with ("module.") is no matter. None for weights that are shipped ("photos-cnn").

    Returns:
        A pytree that takes images (batch, height, width, 3) in [0, 1] and returns logits (batch, classes).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the name is unknown or no classifier's, weights are needed, or the file is no safetensors file,
            truncated, of another architecture, or not finite.

    Example:
        >>> import jax, jaxpurify as jp
        >>> classifier = jp.networks.load_classifier("photos-cnn")
        >>> classifier(jax.numpy.zeros((2, 32, 32, 3))).shape
        (2, 8)
    """
    known = architecture(name)
    if known.kind != CLASSIFIER:
        raise ValueError(f"{name} makes images of images and is no classifier: load it with networks.load_network")
    module = load_module(name, weights_file=weights)
    return classifiers.classifier(module, name=name, class_names=known.class_names, image_shape=known.image_shape)


def load_network(name: str, *, weights: str | os.PathLike | None = None) -> classifiers.Function:
    """Load a registered network from images to images with its weights, for a purifier to hold.

    Args:
        name: one of `names(kind="images")`: "edsr-baseline-x2", …, "edsr-large-x4", "sesr-x2", "blind-spot".
        weights: a safetensors file in the names of the published PyTorch networks, as `jaxpurify convert` writes it, or
            in this library's; None for weights that are shipped.

    Returns:
        A pytree that takes images (batch, height, width, channel) in [0, 1] and returns images, not clipped.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the name is unknown or a classifier's, weights are needed, or the file is no safetensors file,
            truncated, of another architecture, or not finite.
    """
    if architecture(name).kind != IMAGES:
        raise ValueError(f"{name} is a classifier and makes no images: load it with networks.load_classifier")
    return classifiers.of_nnx(load_module(name, weights_file=weights), name=name)


def _read_shipped(shipped: Shipped) -> tuple[weights.State, dict[str, str]]:
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
    return weights.parse(content, shipped.file), formats.metadata(BytesIO(content))
