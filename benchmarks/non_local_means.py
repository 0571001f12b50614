"""Non-local means beside scikit-image: ``python -m benchmarks.non_local_means``.

Every function is warm and gets float32 images of shape ``(batch, height, width, channel)``; scikit-image takes one
image after another. Its fast mode computes something else: patches without weights, of one row and column less.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Row, compile_seconds, interleaved, table
from jaxpurify.transforms.non_local_means import non_local_means

OPTIONS = {"h": 0.05, "patch_size": 3, "patch_distance": 5}

ours = jax.jit(functools.partial(non_local_means, **OPTIONS))


def scikit_image(images, fast_mode=False):
    """Denoise image after image with scikit-image."""
    from skimage.restoration import denoise_nl_means

    return np.stack([denoise_nl_means(image, fast_mode=fast_mode, channel_axis=-1, **OPTIONS) for image in images])


def rows(shape, *, repeats=3):
    """Time it and its gradient on images of one shape."""
    host = np.random.default_rng(0).uniform(0.4, 0.6, shape).astype(np.float32)
    images = jnp.asarray(host)
    slope = jax.jit(jax.grad(lambda images: jnp.sum(ours(images) ** 2)))
    compiling, slope_compiling = compile_seconds(ours, images), compile_seconds(slope, images)
    difference = np.abs(np.asarray(ours(images))[:2] - scikit_image(host[:2].astype(np.float64))).max()
    seconds = interleaved(
        {
            "scikit-image": functools.partial(scikit_image, host),
            "fast mode": functools.partial(scikit_image, host, fast_mode=True),
            "ours": functools.partial(ours, images),
            "gradient": functools.partial(slope, images),
        },
        repeats,
    )
    memory = slope.lower(images).compile().memory_analysis().temp_size_in_bytes
    yield Row("ours", 1e3 * seconds["ours"], "ms")
    yield Row("ours, compilation", compiling, "s")
    yield Row("gradient, compilation", slope_compiling, "s")
    yield Row("scikit-image / ours", seconds["scikit-image"] / seconds["ours"])
    yield Row("scikit-image in its fast mode / ours", seconds["fast mode"] / seconds["ours"])
    yield Row("gradient / ours", seconds["gradient"] / seconds["ours"])
    yield Row("memory of the gradient / that of the images", memory / host.nbytes)
    yield Row("largest difference to scikit-image in float64", float(difference), "", at_most=1e-5)


def main():
    """Print the tables."""
    print(f"devices: {jax.devices()}")
    print("\n16 × 224 × 224 × 3")
    table(rows((16, 224, 224, 3)))
    print("\n128 × 32 × 32 × 3")
    table(rows((128, 32, 32, 3)))


if __name__ == "__main__":
    main()
