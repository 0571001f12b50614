"""Purifiers by the names that the command and reports use."""

from typing import Any

from jaxpurify import specification
from jaxpurify.ensembles import CropEnsemble
from jaxpurify.models import Sequential
from jaxpurify.purifiers.bit_depth import BitDepth
from jaxpurify.purifiers.frequency import LowPass, RandomFrequencyMask
from jaxpurify.purifiers.gaussian_noise import GaussianNoise
from jaxpurify.purifiers.identity import Identity
from jaxpurify.purifiers.jpeg import JPEG
from jaxpurify.purifiers.median import Median
from jaxpurify.purifiers.ncis import NCIS, BlindSpot
from jaxpurify.purifiers.non_local_means import NonLocalMeans
from jaxpurify.purifiers.pixel_deflection import PixelDeflection
from jaxpurify.purifiers.quilting import Quilting
from jaxpurify.purifiers.random_crop import RandomCrop
from jaxpurify.purifiers.random_resizing import RandomResizing
from jaxpurify.purifiers.resizing import Resizing
from jaxpurify.purifiers.smoothing import GaussianSmoothing
from jaxpurify.purifiers.super_resolution import SuperResolution
from jaxpurify.purifiers.total_variation import RandomPixelTotalVariation, TotalVariation
from jaxpurify.purifiers.wavelet import WaveletDenoising

PURIFIERS: dict[str, type] = {
    "none": Identity,
    "gaussian-smoothing": GaussianSmoothing,
    "ncis": NCIS,
    "blind-spot": BlindSpot,
    "wavelet": WaveletDenoising,
    "super-resolution": SuperResolution,
    "frequency-mask": RandomFrequencyMask,
    "low-pass": LowPass,
    "jpeg": JPEG,
    "total-variation": TotalVariation,
    "random-pixel-total-variation": RandomPixelTotalVariation,
    "bit-depth": BitDepth,
    "median": Median,
    "non-local-means": NonLocalMeans,
    "random-resizing": RandomResizing,
    "random-crop": RandomCrop,
    "crop-ensemble": CropEnsemble,
    "pixel-deflection": PixelDeflection,
    "quilting": Quilting,
    "gaussian-noise": GaussianNoise,
    "resizing": Resizing,
}


def names() -> dict[str, type]:
    """Return the registered purifiers.

    Returns:
        Classes by name. One with a ``pretrained`` is constructed by it.
    """
    return dict(PURIFIERS)


def make(text: str) -> Any:
    """Construct a purifier from a text such as ``gaussian-smoothing:sigma=1,iterations=10``.

    Args:
        text: the name, and after a colon its fields; several joined by ``+`` purify in turn.

    Returns:
        The purifier.

    Raises:
        FileNotFoundError: if weights are asked for that are not there.
        ValueError: if a name or value does not fit.
    """
    stages = [specification.make(part, PURIFIERS, kind="purifier") for part in text.split("+")]
    return stages[0] if len(stages) == 1 else Sequential(*stages)
