"""The median filter beside SciPy: ``python -m benchmarks.median``.

Every function is warm and gets float32 images of shape ``(batch, height, width, channel)``.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Row, compile_seconds, interleaved, table
from jaxpurify.transforms.median import median_filter

SIZES = (2, 3, 5, 7)

ours = jax.jit(median_filter, static_argnames="size")


def scipy_median(images, size):
    """Filter all images at once with SciPy."""
    from scipy.ndimage import median_filter

    return median_filter(images, size=(1, size, size, 1), mode="reflect")


def rows(shape, *, fast=None, repeats=3):
    """Time windows of several sizes on images of one shape, against a target for 5 × 5 if given."""
    host = np.random.default_rng(0).random(shape, np.float32)
    images = jnp.asarray(host)
    for size in SIZES:
        filtered = functools.partial(ours, images, size=size)
        slope = jax.jit(jax.grad(lambda images, size=size: jnp.sum(median_filter(images, size=size) ** 2)))
        compiling = compile_seconds(ours, images, size=size)
        different = np.mean(np.asarray(filtered()) != scipy_median(host, size))
        seconds = interleaved(
            {
                "SciPy": functools.partial(scipy_median, host, size),
                "ours": filtered,
                "gradient": functools.partial(slope, images),
            },
            repeats,
        )
        name = f"{size} × {size}"
        yield Row(f"{name}: ours", 1e3 * seconds["ours"], "ms")
        yield Row(f"{name}: compilation", compiling, "s")
        yield Row(f"{name}: SciPy / ours", seconds["SciPy"] / seconds["ours"], at_least=fast if size == 5 else None)
        yield Row(f"{name}: gradient / ours", seconds["gradient"] / seconds["ours"])
        yield Row(f"{name}: share of values that differ from SciPy's", float(different), "", at_most=0)


def main():
    """Print the tables."""
    print(f"devices: {jax.devices()}")
    print("\n16 × 224 × 224 × 3")
    table(rows((16, 224, 224, 3), fast=4))
    print("\n128 × 32 × 32 × 3")
    table(rows((128, 32, 32, 3)))


if __name__ == "__main__":
    main()
