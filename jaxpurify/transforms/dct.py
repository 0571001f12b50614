"""Discrete cosine transforms as dense matrices, one for each way of continuing an image beyond its border."""

import numpy as np

BOUNDARIES = ("symmetric", "mirror")


def check_boundary(boundary: str) -> None:
    """Refuse the name of an unknown boundary.

    Args:
        boundary: what the caller gave.

    Raises:
        ValueError: if it is not one of ``BOUNDARIES``.
    """
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary must be one of {', '.join(BOUNDARIES)}, got {boundary!r}")


def period(size: int, *, boundary: str = "symmetric") -> int:
    """Return after how many pixels a row continued beyond its borders repeats itself.

    Args:
        size: number of pixels of the row.
        boundary: ``"symmetric"`` (d c b a | a b c d | d c b a) or ``"mirror"`` (d c b | a b c d | c b a).

    Returns:
        The period in pixels: ``2 size`` or ``2 (size - 1)``, and 1 for a mirrored row of one pixel.

    Raises:
        ValueError: if the boundary is unknown.
    """
    check_boundary(boundary)
    return 2 * size if boundary == "symmetric" else max(2 * (size - 1), 1)


def cosine_basis(size: int, *, boundary: str = "symmetric") -> tuple[np.ndarray, np.ndarray]:
    """Compute the cosine transform that diagonalises every symmetric filter under a boundary.

    Row j of the analysis matrix is a cosine of angular frequency ``2π j / period`` a pixel. With symmetric borders it
    is the orthonormal DCT-II; with mirrored ones the DCT-I, whose two end pixels count half.

    Args:
        size: number of pixels, at least 1.
        boundary: ``"symmetric"`` (d c b a | a b c d | d c b a) or ``"mirror"`` (d c b | a b c d | c b a).

    Returns:
        ``(analysis, synthesis)``, float64 of shape ``(size, size)``: coefficients are ``analysis @ row`` and
        ``synthesis @ analysis`` is the identity.

    Raises:
        ValueError: if size is below 1 or the boundary is unknown.

    Source: Strang, "The discrete cosine transform", SIAM Review 41, 1999.

    Example:
        >>> analysis, synthesis = cosine_basis(4)
        >>> bool(np.allclose(synthesis, analysis.T)), bool(np.allclose(synthesis @ analysis, np.eye(4)))
        (True, True)
    """
    check_boundary(boundary)
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    frequency, pixel = np.arange(size)[:, None], np.arange(size)[None, :]
    if boundary == "symmetric":
        # Angles are reduced as integers first, which keeps them exact for large images.
        analysis = np.sqrt(2 / size) * np.cos(np.pi / (2 * size) * (frequency * (2 * pixel + 1) % (4 * size)))
        analysis[0] = np.sqrt(1 / size)
        return analysis, analysis.T
    if size == 1:
        return np.ones((1, 1)), np.ones((1, 1))
    cosines = np.cos(np.pi / (size - 1) * (frequency * pixel % (2 * (size - 1))))
    ends = np.where((np.arange(size) == 0) | (np.arange(size) == size - 1), 0.5, 1.0)
    return cosines * ends, cosines * ends * (2 / (size - 1))
