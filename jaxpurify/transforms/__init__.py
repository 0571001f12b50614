"""Linear maps of images as small dense products: pure functions without randomness or state."""

from jaxpurify.transforms.dct import cosine_basis
from jaxpurify.transforms.gaussian import gaussian_smooth, smoothing_operator

__all__ = ["cosine_basis", "gaussian_smooth", "smoothing_operator"]
