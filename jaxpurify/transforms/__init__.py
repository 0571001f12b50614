"""Maps of images in frequency and scale, and filters: pure functions without state, keys being arguments."""

from jaxpurify.transforms.dct import cosine_basis, dct2, dct_filter, idct2
from jaxpurify.transforms.fourier import fft_filter
from jaxpurify.transforms.frequency_mask import frequency_mask, low_pass, random_frequency_mask
from jaxpurify.transforms.gaussian import gaussian_smooth, smoothing_operator

__all__ = [
    "cosine_basis",
    "dct2",
    "dct_filter",
    "fft_filter",
    "frequency_mask",
    "gaussian_smooth",
    "idct2",
    "low_pass",
    "random_frequency_mask",
    "smoothing_operator",
]
