"""Maps of images in frequency and scale, and filters: pure functions without state, keys being arguments."""

from jaxpurify.transforms.dct import cosine_basis, dct2, dct_filter, idct2
from jaxpurify.transforms.fourier import fft_filter
from jaxpurify.transforms.frequency_mask import frequency_mask, low_pass, random_frequency_mask
from jaxpurify.transforms.gaussian import gaussian_smooth, smoothing_operator
from jaxpurify.transforms.median import median_filter
from jaxpurify.transforms.shrinkage import garrote_threshold, hard_threshold, soft_threshold
from jaxpurify.transforms.total_variation import total_variation_denoise, total_variation_reconstruct
from jaxpurify.transforms.wavelets import wavedec2, waverec2

__all__ = [
    "cosine_basis",
    "dct2",
    "dct_filter",
    "fft_filter",
    "frequency_mask",
    "garrote_threshold",
    "gaussian_smooth",
    "hard_threshold",
    "idct2",
    "low_pass",
    "median_filter",
    "random_frequency_mask",
    "smoothing_operator",
    "soft_threshold",
    "total_variation_denoise",
    "total_variation_reconstruct",
    "wavedec2",
    "waverec2",
]
