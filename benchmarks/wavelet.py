"""Wavelet denoising beside scikit-image's: ``python -m benchmarks.wavelet``.

Every function is warm and gets float32 images, scikit-image's in a loop over the batch. Both denoise in YCbCr with
BayesShrink, soft thresholds and the paper's number of levels.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Row, compile_seconds, interleaved, table
from jaxpurify.purifiers.wavelet import WaveletDenoising
from jaxpurify.transforms.shrinkage import estimate_sigma
from jaxpurify.transforms.wavelets import wavedec2

SIGMA = 0.05
WAVELETS = ("haar", "db4", "sym8", "bior4.4")
RULES = {"bayes": "BayesShrink", "visu": "VisuShrink"}

purify = jax.jit(lambda purifier, images: purifier(images))
slope = jax.jit(jax.grad(lambda images, purifier: jnp.sum(purifier(images) ** 2)))


def by_scikit_image(images, *, sigma=SIGMA, wavelet="haar", rule="bayes", colour="ycbcr", threshold="soft"):
    from skimage.restoration import denoise_wavelet

    options = {"convert2ycbcr": colour == "ycbcr", "rescale_sigma": True, "channel_axis": -1, "mode": threshold}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a biorthogonal wavelet is not what BayesShrink was made for
        denoised = [
            denoise_wavelet(image, sigma=sigma, wavelet=wavelet, method=RULES[rule], **options) for image in images
        ]
    return np.clip(denoised, 0, 1)


def error_rows():
    """Compare with scikit-image in float64 on images of odd size."""
    images = np.random.default_rng(0).random((2, 63, 85, 3), np.float32)
    for wavelet in WAVELETS:
        for rule in RULES:
            for colour in ("ycbcr", "rgb"):
                options = {"wavelet": wavelet, "rule": rule, "colour": colour}
                purified = purify(WaveletDenoising(sigma=SIGMA, convention="image", **options), images)
                error = float(np.abs(purified - by_scikit_image(images.astype(np.float64), **options)).max())
                yield Row(f"largest difference to scikit-image, {wavelet}, {rule}, {colour}", error, "", at_most=1e-5)


def time_rows(shape, *, fast=None):
    """Time ours and scikit-image's on images of one shape, against the target if given."""
    host = np.random.default_rng(0).random(shape, np.float32)
    images = jnp.asarray(host)
    ours = {name: WaveletDenoising(sigma=SIGMA, wavelet=name) for name in WAVELETS}
    ours["haar, blind"] = WaveletDenoising(sigma=None)
    compiling = {
        name: compile_seconds(purify, ours[name], images) + 1j * compile_seconds(slope, images, ours[name])
        for name in WAVELETS
    }
    diagonal = jax.jit(lambda images: wavedec2(images, levels=1)[1][0][2].transpose(0, 3, 1, 2))(images)
    planar = (2, 3)
    medians = {
        "median": functools.partial(jax.jit(lambda d: estimate_sigma(d, axes=planar)), diagonal),
        "sorted": functools.partial(jax.jit(lambda d: jnp.median(jnp.abs(d), axis=planar)), diagonal),
    }
    copy = jax.jit(lambda images: 1 - images)
    seconds = interleaved(
        {name: functools.partial(purify, purifier, images) for name, purifier in ours.items()}
        | {f"gradient, {name}": functools.partial(slope, images, ours[name]) for name in ("haar", "db4", "haar, blind")}
        | {f"scikit-image, {name}": functools.partial(by_scikit_image, host, wavelet=name) for name in WAVELETS}
        | {"scikit-image, haar, blind": functools.partial(by_scikit_image, host, sigma=None)}
        | medians
        | {"copy": functools.partial(copy, images)}
    )
    for name in ours:
        yield Row(f"{name}: ours", 1e3 * seconds[name], "ms")
        ratio = seconds[f"scikit-image, {name}"] / seconds[name]
        yield Row(f"{name}: scikit-image / ours", ratio, at_least=fast if name == "haar" else None)
    for name in ("haar", "db4", "haar, blind"):
        yield Row(f"{name}: value and gradient / value", seconds[f"gradient, {name}"] / seconds[name])
    for name, value in compiling.items():
        yield Row(f"{name}: compilation", value.real, "s")
        yield Row(f"{name}: compilation of the gradient", value.imag, "s")
    yield Row("haar: ours / reading and writing the images once", seconds["haar"] / seconds["copy"])
    yield Row("blind estimate: jnp.median / ours", seconds["sorted"] / seconds["median"])


def main():
    """Print the tables."""
    print(f"devices: {jax.devices()}")
    print("\nAccuracy")
    table(error_rows())
    print("\n16 × 224 × 224 × 3")
    table(time_rows((16, 224, 224, 3), fast=8))
    print("\n128 × 32 × 32 × 3")
    table(time_rows((128, 32, 32, 3)))


if __name__ == "__main__":
    main()
