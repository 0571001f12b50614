"""Pictures of what purifiers do: one photograph, attacked, before and after each of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import keys as _keys
from jaxpurify import networks
from jaxpurify.attacks import PGD
from jaxpurify.datasets import photos
from jaxpurify.evaluation.drawing import PIXELS_PER_INCH, drawable, magnification, resized, short
from jaxpurify.metrics import psnr
from jaxpurify.models import as_target, attribute

CLASSIFIER = "photos-cnn"
PHOTOGRAPH, ROW, COLUMN, SIZE = "chelsea", 60, 130, 128  # one of the cat's eyes
TILE, GAP, TEXT = 256, 10, 34  # pixels
COLUMNS = 5
LETTERS = 34


class Subject(NamedTuple):
    """A photograph and what an attack that does not know any purifier made of it.

    Attributes:
        clean: shape ``(1, height, width, 3)``, in [0, 1].
        attacked: same shape.
        label: the class that the classifier saw in the clean one.
    """

    clean: np.ndarray
    attacked: np.ndarray
    label: int


def subject(image: np.ndarray | None = None, *, epsilon: float = 8 / 255, key: Any = None) -> Subject:
    """Attack a photograph so that the embedded classifier no longer sees what it saw in it.

    Args:
        image: RGB, shape ``(height, width, 3)``, ``uint8`` or floating point in [0, 1]; by default a cat's eye, 128
            pixels to a side, of the embedded photographs.
        epsilon: size of the perturbation in the L∞ norm.
        key: one typed key; ``jax.random.key(0)`` by default.

    Returns:
        The photograph before and after PGD with 40 steps.

    Raises:
        ValueError: if the image is not RGB.

    Source: our choice.
    """
    if image is None:
        names = [photograph.name for photograph in photos.PHOTOGRAPHS]
        whole = photos.balanced_photographs()[names.index(PHOTOGRAPH)]
        image = whole[ROW : ROW + SIZE, COLUMN : COLUMN + SIZE]
    values = np.asarray(image)
    if values.ndim != 3 or values.shape[-1] != 3:
        raise ValueError(f"image must be RGB, expected shape (height, width, 3), got {values.shape}")
    values = values / np.float32(255) if values.dtype == np.uint8 else values
    clean = jnp.asarray(values, jnp.float32)[None]
    classifier = networks.load_classifier(CLASSIFIER)
    label = classifier(clean).argmax(axis=1).astype(jnp.int32)
    key = jax.random.key(0) if key is None else key
    attacked = PGD(epsilon=epsilon)(classifier, clean, label, key).images
    return Subject(np.asarray(clean), np.asarray(attacked), int(label[0]))


def before_and_after(shown: Subject, purifier: Any, *, name: str, key: Any = None) -> Any:
    """Draw an attacked photograph before and after a purifier, and what it changed.

    Args:
        shown: the photograph.
        purifier: images to images.
        name: what the picture calls it.
        key: one typed key, for a random purifier; ``jax.random.key(0)`` by default.

    Returns:
        A ``matplotlib.figure.Figure``; under a picture stands its peak signal-to-noise ratio to the clean one.

    Source: our choice.
    """
    purified = _purified(shown, purifier, key)
    change = resized(purified, shown.attacked.shape[1:3]) - shown.attacked
    factor = magnification(change)
    tiles = {
        f"attacked, {_fidelity(shown, shown.attacked)}": shown.attacked,
        f"{name}, {_fidelity(shown, purified)}": purified,
        f"the change, × {factor}": np.clip(0.5 + factor * change, 0, 1),
    }
    return _tiled(list(tiles.items()), columns=3)


def gallery(shown: Subject, purifiers: Mapping[str, Any], *, key: Any = None) -> Any:
    """Draw what every purifier makes of one attacked photograph.

    Args:
        shown: the photograph.
        purifiers: purifiers, ensembles (of which the first draw is shown) and detectors (of which the score is shown)
            by name.
        key: one typed key, for random purifiers; ``jax.random.key(0)`` by default.

    Returns:
        A ``matplotlib.figure.Figure``: the clean photograph, the attacked one, and a tile a purifier.

    Source: our choice.
    """
    tiles = [("clean", shown.clean), (f"attacked\n{_fidelity(shown, shown.attacked)}", shown.attacked)]
    for name, purifier in purifiers.items():
        if attribute(purifier, "is_detector"):
            tiles.append((f"{name}\n{_score(shown, purifier)}", shown.attacked))
            continue
        purified = _purified(shown, purifier, key)
        tiles.append((f"{name}\n{_fidelity(shown, purified)}", purified))
    return _tiled(tiles, columns=COLUMNS)


def _purified(shown: Subject, purifier: Any, key: Any) -> np.ndarray:
    keys = _keys.per_image(jax.random.key(0) if key is None else key, 1)
    return np.asarray(_run(as_target(purifier), shown.attacked, keys if attribute(purifier, "random") else None))


@jax.jit
def _run(purifier, images, keys):
    return purifier(images, keys)


def _score(shown: Subject, detector: Any) -> str:
    classifier = networks.load_classifier(CLASSIFIER)
    clean, attacked = (float(detector.score(classifier, image)[0]) for image in (shown.clean, shown.attacked))
    return f"score {attacked:.2f}, clean {clean:.2f}"


def _fidelity(shown: Subject, images: np.ndarray) -> str:
    comparable = resized(images, shown.clean.shape[1:3]).astype(shown.clean.dtype)
    return f"{float(psnr(comparable, shown.clean)[0]):.1f} dB"


def _tiled(tiles: list[tuple[str, np.ndarray]], *, columns: int) -> Any:
    from matplotlib.figure import Figure

    rows = -(-len(tiles) // columns)
    longest = max(max(image.shape[1:3]) for _, image in tiles)
    height, width = (max(1, round(side * TILE / longest)) for side in tiles[0][1].shape[1:3])
    extent = min(columns, len(tiles)) * (width + GAP) - GAP, rows * (height + TEXT)
    figure = Figure(figsize=(extent[0] / PIXELS_PER_INCH, extent[1] / PIXELS_PER_INCH))
    figure.set_facecolor("white")
    axes = figure.add_axes((0, 0, 1, 1))
    for number, (words, image) in enumerate(tiles):
        left, top = number % columns * (width + GAP), number // columns * (height + TEXT)
        axes.imshow(
            np.clip(image[0], 0, 1),
            extent=(left, left + width, top + height, top),
            interpolation="nearest" if max(image.shape) <= TILE else "antialiased",
            aspect="auto",
        )
        lines = "\n".join(drawable(short(line, LETTERS)) for line in words.splitlines())
        axes.text(left + width / 2, top + height + 3, lines, ha="center", va="top", fontsize=6.5, linespacing=1.1)
    axes.set(xlim=(0, extent[0]), ylim=(extent[1], 0))
    axes.axis("off")
    return figure
