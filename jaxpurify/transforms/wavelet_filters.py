"""Wavelets by PyWavelets' names: their filters, the levels an image has room for, and what lies beyond its border."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

FAMILIES = ("haar", "db", "sym", "coif", "bior", "rbio")
EXTENSIONS = ("symmetric", "periodic", "periodization")
_WRAPPED = {"symmetric": "symmetric", "periodic": "wrap", "periodization": "wrap"}

# The taps of a low-pass and of a high-pass filter.
Pair = tuple[tuple[float, ...], tuple[float, ...]]


class Wavelet(NamedTuple):
    """The filters of a wavelet, all of one even length.

    Args:
        analysis: low-pass and high-pass taps f; coefficient k is ``Σ_j f[j] x[2 k + j]`` of the extended row x.
        synthesis: low-pass and high-pass taps g; pixel n of the extended row is ``Σ_k g[n - 2 k] c[k]``, both added.
    """

    analysis: Pair
    synthesis: Pair

    @property
    def length(self) -> int:
        """Number of taps."""
        return len(self.analysis[0])


@functools.lru_cache
def wavelet_filters(wavelet: str) -> Wavelet:
    """Look up the filters of a wavelet.

    Args:
        wavelet: PyWavelets' name: ``"haar"``, ``"db1"`` to ``"db38"``, ``"sym2"`` to ``"sym20"``, ``"coif1"`` to
            ``"coif17"``, ``"bior1.1"`` to ``"bior6.8"`` or ``"rbio1.1"`` to ``"rbio6.8"``.

    Returns:
        The filters, in float64.

    Raises:
        ValueError: if there is no such wavelet.

    Source: PyWavelets' tables.

    Example:
        >>> wavelet_filters("db4").length
        8
    """
    import pywt

    if wavelet not in {name for family in FAMILIES for name in pywt.wavelist(family)}:
        raise ValueError(
            f"wavelet must be one of PyWavelets' families {', '.join(FAMILIES)}, such as 'haar', 'db4', 'sym8', "
            f"'coif1', 'bior2.2' or 'rbio2.2', got {wavelet!r}"
        )
    table = pywt.Wavelet(wavelet)
    # PyWavelets convolves, which turns a filter round; ours are already turned.
    return Wavelet(
        analysis=(tuple(table.dec_lo[::-1]), tuple(table.dec_hi[::-1])),
        synthesis=(tuple(table.rec_lo), tuple(table.rec_hi)),
    )


def max_levels(size: tuple[int, int], *, wavelet: str = "haar") -> int:
    """Return after how many levels the coarsest band would be shorter than the wavelet.

    Args:
        size: height and width in pixels.
        wavelet: PyWavelets' name.

    Returns:
        ``floor(log2(shorter side / (length - 1)))``, at least 0.

    Raises:
        ValueError: if there is no such wavelet.

    Source: PyWavelets' ``dwt_max_level``.

    Example:
        >>> max_levels((299, 299)), max_levels((32, 45), wavelet="db4")
        (8, 2)
    """
    return max((min(size) // (wavelet_filters(wavelet).length - 1)).bit_length() - 1, 0)


def check_levels(levels: int, *, size: tuple[int, int], wavelet: str) -> None:
    """Refuse more levels than an image has room for; one level always has.

    Args:
        levels: number of levels.
        size: height and width in pixels.
        wavelet: PyWavelets' name.

    Raises:
        ValueError: if levels is below 1, or too many for the size.
    """
    if not isinstance(levels, int | jnp.integer) or levels < 1:
        raise ValueError(f"levels must be an integer of at least 1, got {levels}")
    most = max(max_levels(size, wavelet=wavelet), 1)
    if levels > most:
        raise ValueError(
            f"levels must be at most {most} for an image of {size[0]} × {size[1]} pixels and the wavelet {wavelet!r}, "
            f"got {levels}: ask for fewer levels or pass larger images"
        )


def check_extension(extension: str) -> None:
    """Refuse the name of an unknown extension.

    Args:
        extension: what the caller gave.

    Raises:
        ValueError: if it is not one of ``EXTENSIONS``.
    """
    if extension not in EXTENSIONS:
        raise ValueError(f"extension must be one of {', '.join(EXTENSIONS)}, got {extension!r}")


def extend(planes: Array, *, length: int, extension: str) -> Array:
    """Continue planes beyond their borders by what filters of some length reach.

    Args:
        planes: shape ``(plane, height, width)``.
        length: number of taps of the filters, even.
        extension: ``"symmetric"`` (b a | a b c | c b), ``"periodic"`` (b c | a b c | a b), or ``"periodization"``
            (periodic after the last pixel of an odd side was repeated, with the fewest coefficients).

    Returns:
        Shape ``(plane, 2 rows + length - 2, 2 columns + length - 2)`` for ``(rows, columns)`` coefficients in a band.
    """
    beyond = []
    for size in planes.shape[1:]:
        rest = size % 2
        beyond.append((length // 2 - 1,) * 2 if extension == "periodization" else (length - 2, length - 2 + rest))
        if extension == "periodization" and rest:
            planes = jnp.pad(planes, [(0, int(axis == len(beyond))) for axis in range(3)], mode="edge")
    return jnp.pad(planes, [(0, 0), *beyond], mode=_WRAPPED[extension])  # type: ignore[arg-type]


def cut(planes: Array, *, size: tuple[int, int], length: int, extension: str) -> Array:
    """Cut from merged bands the pixels that belong to the image.

    Args:
        planes: shape ``(plane, 2 rows + length - 2, 2 columns + length - 2)`` for bands of ``wrap_bands``.
        size: height and width of the image in pixels.
        length: number of taps of the filters.
        extension: one of ``EXTENSIONS``.

    Returns:
        Shape ``(plane, height, width)``.
    """
    first = length // 2 - 1 + 2 * (length // 4) if extension == "periodization" else length - 2
    return planes[:, first : first + size[0], first : first + size[1]]


def wrap_bands(band: Array, *, length: int, extension: str) -> Array:
    """Continue a band beyond its borders by what the inverse transform reaches.

    Args:
        band: shape ``(plane, rows, columns)``.
        length: number of taps of the filters.
        extension: one of ``EXTENSIONS``; only ``"periodization"`` needs more coefficients than it has.

    Returns:
        The band, with ``length // 4`` coefficients more on every side where they are needed.
    """
    beyond = length // 4 if extension == "periodization" else 0
    return jnp.pad(band, [(0, 0), (beyond, beyond), (beyond, beyond)], mode="wrap")


def band_size(size: int, *, length: int, extension: str) -> int:
    """Return how many coefficients one side of a band has.

    Args:
        size: the side of the plane it is made from, in pixels.
        length: number of taps of the filters.
        extension: one of ``EXTENSIONS``.

    Returns:
        Half the size, rounded up, with ``"periodization"``; else what all taps that touch the row give.
    """
    return (size + 1) // 2 if extension == "periodization" else (size + length - 1) // 2
