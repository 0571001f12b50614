"""A few images of one attack: clean, attacked, perturbation, purified, and what the purifier left or lost."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxpurify import files, runs
from jaxpurify.evaluation.drawing import PIXELS_PER_INCH, RIGHT, WRONG, drawable, magnification, resized, short

EXAMPLE = ("clean", "attacked", "purified", "labels", "before", "after", "names")
ROWS = 6
CELL = 132  # pixels of an image in the figure; a small one's are multiples of its own, so that they stay squares
GAP, TEXT = 8, 38
NOTE = "Black: true class. Under attacked: the classifier alone;\nunder purified: the defended model; ✓ right, ✗ wrong."
LETTERS = 10  # of a class name, which fit under an image


def grid(example: str | os.PathLike, *, class_names: Sequence[str] = ()) -> Any:
    """Draw a few images of one attack: clean, attacked, perturbation, purified, and what the purifier left or lost.

    Args:
        example: an ``.npz`` file in ``examples/`` of a run folder.
        class_names: names of the classes; numbers are shown where there are none.

    Returns:
        A ``matplotlib.figure.Figure`` with a row an image, six at most. Under the clean image stands the true class,
        under the attacked one the classifier alone's class, under the purified one the defended model's.

    Raises:
        ValueError: if the file cannot be read.
    """
    from matplotlib.figure import Figure

    shown = read_example(example)
    clean, attacked, purified = (_coloured(shown[name][:ROWS]) for name in ("clean", "attacked", "purified"))
    change = resized(purified, clean.shape[1:3]) - clean
    factor = magnification(change)
    columns = {
        "clean": clean,
        "attacked": attacked,
        "perturbation\n× 10": 0.5 + 10 * (attacked - clean),
        "purified": purified,
        f"purified −\nclean, × {factor}": 0.5 + factor * change,
    }
    longest = max(clean.shape[1:3])
    repeats = max(1, CELL // longest)
    height, width = (side * repeats * min(1, CELL / (longest * repeats)) for side in clean.shape[1:3])
    extent = len(columns) * (width + GAP), len(clean) * (height + TEXT)
    figure = Figure(figsize=(extent[0] / PIXELS_PER_INCH, extent[1] / PIXELS_PER_INCH))
    figure.set_facecolor("white")
    axes = figure.add_axes((0, 0, 1, 1))
    words = {0: shown["labels"], 1: shown["before"], 3: shown["after"]}
    for column, (title, images) in enumerate(columns.items()):
        left = column * (width + GAP)
        axes.text(left + width / 2, -7, title, ha="center", va="bottom", fontsize=9, color="black")
        for row, image in enumerate(np.clip(images, 0, 1)):
            top = row * (height + TEXT)
            # Enlarged images show their pixels; shrunk ones are averaged.
            kind = "nearest" if max(image.shape) <= CELL else "antialiased"
            axes.imshow(image, extent=(left, left + width, top + height, top), interpolation=kind, aspect="auto")
            if column in words:
                text, colour = _verdict(shown["labels"][row], words[column][row] if column else None, class_names)
                middle, under = left + width / 2, top + height + 4
                axes.text(middle, under, text, ha="center", va="top", fontsize=8, color=colour)
    axes.set(xlim=(0, extent[0]), ylim=(extent[1], 0))
    axes.axis("off")
    title = drawable(" · ".join(short(str(name), 30) for name in shown["names"]))
    axes.text(0, -60, title, va="bottom", fontsize=9, color="black")
    axes.text(0, extent[1] + 2, NOTE, va="top", fontsize=8, color="#595959")
    return figure


def read_example(example: str | os.PathLike, *names: str) -> dict[str, np.ndarray]:
    """Read the images of one attack that an evaluation kept for its figures.

    Args:
        example: an ``.npz`` file in ``examples/`` of a run folder.
        names: which arrays; all by default.

    Returns:
        Arrays by name: ``clean``, ``attacked`` and ``purified`` of shape ``(batch, height, width, channel)``,
        ``labels``, ``before`` and ``after`` of shape ``(batch,)``, ``names`` of the purifier, threat model and attack.

    Raises:
        ValueError: if the file cannot be read.
    """
    example = files.expanded(example)
    try:
        with open(example, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in names or EXAMPLE}
        _check(found)
        return found
    except Exception as error:  # zipfile, zlib and NumPy raise whatever they meet in a damaged file
        why = f" ({runs.reason(error)})" if isinstance(error, OSError) else ""
        raise ValueError(
            f"{example} is no example of an evaluation{why}: expected an .npz file with {', '.join(EXAMPLE)}; move it "
            "away to draw the report without it"
        ) from None


def _check(arrays: dict[str, np.ndarray]) -> None:
    """Refuse arrays that do not belong together."""
    count = len(arrays.get("clean", ()))
    for name, array in arrays.items():
        if name == "names":
            fits = array.shape == (3,) and array.dtype.kind == "U"
        elif name in ("clean", "attacked", "purified"):
            fits = array.ndim == 4 and 0 < len(array) == count and min(array.shape) > 0 and array.dtype.kind == "f"
        else:
            fits = array.shape == (count,) and array.dtype.kind in "iu"
        if not fits:
            raise ValueError(name)
    if "attacked" in arrays and arrays["attacked"].shape != arrays["clean"].shape:
        raise ValueError("attacked")


def _coloured(images: np.ndarray) -> np.ndarray:
    """Return images of three channels: colour as it is, anything else as the mean of its channels."""
    images = images.astype(float)
    return images if images.shape[-1] == 3 else np.repeat(images.mean(axis=-1, keepdims=True), 3, axis=-1)


def _verdict(label: Any, predicted: Any, class_names: Sequence[str]) -> tuple[str, str]:
    """Return what stands under an image, and in which colour; the mark serves those who do not see colours."""

    def name(number: Any) -> str:
        known = 0 <= number < len(class_names)
        return drawable(short(class_names[number] if known else f"class {number}", LETTERS))

    if predicted is None:
        return name(label), "black"
    right = predicted == label
    said = "not finite" if predicted < 0 else name(predicted)
    return f"{'✓' if right else '✗'} {said}", RIGHT if right else WRONG
