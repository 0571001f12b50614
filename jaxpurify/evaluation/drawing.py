"""What all figures share: colours, letters and the PNG they become."""

import functools
import io
from typing import Any

import numpy as np

# Okabe and Ito's palette, told apart by the colour-blind; each threat model also has a marker of its own, for print.
STYLES = {
    "noise": ("#56b4e9", "X"),
    "blind": ("#0072b2", "o"),
    "transfer": ("#cc79a7", "v"),
    "blackbox": ("#882255", "P"),
    "bpda": ("#e69f00", "s"),
    "substitute": ("#009e73", "^"),
    "full": ("#d55e00", "D"),
    "adaptive": ("#7f4f24", "*"),
}
# Paul Tol's muted palette, for threat models of the user's own.
FURTHER_STYLES = (("#44aa99", "p"), ("#999933", "h"), ("#332288", "<"), ("#aa4499", ">"))
GREY = "#808080"
RIGHT, WRONG = "#0072b2", "#d55e00"

PIXELS_PER_INCH = 150


def styles(threat_models: list[str]) -> dict[str, tuple[str, str]]:
    """Return each threat model's colour and marker, the same in every figure and table.

    Args:
        threat_models: their names.

    Returns:
        ``(colour, marker)`` by name.
    """
    others = [name for name in threat_models if name not in STYLES]
    further = {name: FURTHER_STYLES[number % len(FURTHER_STYLES)] for number, name in enumerate(others)}
    return {name: (STYLES | further)[name] for name in threat_models}


def drawable(text: str) -> str:
    """Return a text without what matplotlib would take for mathematics or has no letter for.

    Args:
        text: any text, such as a purifier's name.

    Returns:
        The text with dollars escaped and unknown letters replaced by question marks.
    """
    known = _letters()
    return "".join(letter if ord(letter) in known else "?" for letter in text).replace("$", r"\$")


@functools.cache
def _letters() -> frozenset[int]:
    """Return the letters of the font that matplotlib brings along."""
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())


def short(text: str, letters: int) -> str:
    """Return a text cut to a number of letters.

    Args:
        text: any text.
        letters: how many there is room for.

    Returns:
        The text, or its beginning and an ellipsis.
    """
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def resized(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return images in another size, each pixel the nearest: some purifiers change the size.

    Args:
        images: shape ``(batch, height, width, channel)``.
        shape: the new height and width.

    Returns:
        Images of that height and width.
    """
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(shape, images.shape[1:3], strict=True)
    )
    return images[:, rows][:, :, columns]


def magnification(change: np.ndarray) -> int:
    """Return by how much a difference can be magnified with at most 1 % of its values leaving the range.

    Args:
        change: differences of values in [0, 1].

    Returns:
        10, 5, 4, 3, 2 or 1.
    """
    largest = float(np.quantile(np.abs(change), 0.99))
    return next((factor for factor in (10, 5, 4, 3, 2) if factor * largest <= 0.5), 1)


def png(figure: Any) -> bytes:
    """Return a figure as a PNG file of 150 pixels an inch.

    Args:
        figure: a ``matplotlib.figure.Figure``.

    Returns:
        The file's bytes, the same for the same figure.
    """
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=PIXELS_PER_INCH, bbox_inches="tight", metadata={"Software": None})
    return file.getvalue()
