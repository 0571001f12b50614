"""Total variation beside scikit-image: ``python -m benchmarks.total_variation``.

Every function is warm and gets float32 images of shape ``(batch, height, width, channel)``; scikit-image takes one
image after another. Fifty passes each.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Row, compile_seconds, interleaved, table
from jaxpurify.transforms.total_variation import total_variation_denoise, total_variation_reconstruct

WEIGHT, PASSES = 0.1, 50

denoise = jax.jit(functools.partial(total_variation_denoise, iterations=PASSES))
reconstruct = jax.jit(functools.partial(total_variation_reconstruct, iterations=PASSES))


def scikit_image(images):
    """Denoise image after image with scikit-image."""
    from skimage.restoration import denoise_tv_chambolle

    run = functools.partial(denoise_tv_chambolle, weight=WEIGHT, eps=0, max_num_iter=PASSES, channel_axis=-1)
    return np.stack([run(image) for image in images])


def rows(shape, *, fast=None, repeats=3):
    """Time both minimisations and their gradients on images of one shape, against a target if given."""
    host = np.random.default_rng(0).random(shape, np.float32)
    images, kept = jnp.asarray(host), jnp.asarray(host < 0.5, jnp.float32)
    slope = jax.jit(jax.grad(lambda images: jnp.sum(denoise(images, weight=WEIGHT) ** 2)))
    random_slope = jax.jit(jax.grad(lambda images: jnp.sum(reconstruct(images, kept, weight=0.03) ** 2)))
    compiling = compile_seconds(denoise, images, weight=WEIGHT)
    slope_compiling = compile_seconds(slope, images)
    difference = np.abs(np.asarray(denoise(images[:2], weight=WEIGHT)) - scikit_image(host[:2].astype(np.float64)))
    seconds = interleaved(
        {
            "scikit-image": lambda: scikit_image(host),
            "ours": lambda: denoise(images, weight=WEIGHT),
            "gradient": lambda: slope(images),
            "random": lambda: reconstruct(images, kept, weight=0.03),
            "random gradient": lambda: random_slope(images),
        },
        repeats,
    )
    memory = slope.lower(images).compile().memory_analysis().temp_size_in_bytes
    yield Row("ours, 50 passes", 1e3 * seconds["ours"], "ms")
    yield Row("ours, compilation", compiling, "s")
    yield Row("gradient, compilation", slope_compiling, "s")
    yield Row("scikit-image / ours", seconds["scikit-image"] / seconds["ours"], at_least=fast)
    yield Row("gradient / ours", seconds["gradient"] / seconds["ours"])
    yield Row("memory of the gradient / that of the images", memory / host.nbytes)
    yield Row("random pixels, 50 passes", 1e3 * seconds["random"], "ms")
    yield Row("random pixels, gradient / forward", seconds["random gradient"] / seconds["random"])
    yield Row("largest difference to scikit-image in float64", float(difference.max()), "", at_most=1e-4)


def main():
    """Print the tables."""
    print(f"devices: {jax.devices()}")
    print("\n16 × 224 × 224 × 3")
    table(rows((16, 224, 224, 3), fast=3))
    print("\n128 × 32 × 32 × 3")
    table(rows((128, 32, 32, 3)))


if __name__ == "__main__":
    main()
