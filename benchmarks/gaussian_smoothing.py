"""Gaussian smoothing beside torchvision, SciPy and plain separable passes: ``python -m benchmarks.gaussian_smoothing``.

Every function is warm and gets float32 images in the layout it likes best: torchvision and PyTorch get planar ones,
everything else ``(batch, height, width, channel)``. Sigma is 1, the kernel has 9 taps.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Row, compile_seconds, interleaved, table
from jaxpurify.transforms import gaussian_smooth, smoothing_operator

SIGMA, RADIUS, PASSES = 1.0, 4, 10
WEIGHTS = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / SIGMA) ** 2)
WEIGHTS /= WEIGHTS.sum()
SCIPY_MODES = {"symmetric": "reflect", "mirror": "mirror"}

smooth = jax.jit(gaussian_smooth, static_argnames=("boundary", "truncate"))


def padded(images, *axes):
    return jnp.pad(images, [(RADIUS, RADIUS) if axis in axes else (0, 0) for axis in range(4)], mode="symmetric")


@jax.jit
def shifted_sums(images):
    """One plain separable pass: pad, then the weighted sum of shifted copies, axis by axis."""
    height, width = images.shape[1:3]
    rows = padded(images, 1)
    images = sum(float(weight) * rows[:, k : k + height] for k, weight in enumerate(WEIGHTS))
    columns = padded(images, 2)
    return sum(float(weight) * columns[:, :, k : k + width] for k, weight in enumerate(WEIGHTS))


@jax.jit
def scheduled_sums(images):
    """Do the same in the fastest way we found: barriers against XLA's fusions, pixels flattened into rows."""
    batch, height, width, channels = images.shape
    barrier = jax.lax.optimization_barrier
    rows = barrier(padded(images, 1)).reshape(batch, height + 2 * RADIUS, width * channels)
    images = barrier(sum(float(weight) * rows[:, k : k + height] for k, weight in enumerate(WEIGHTS)))
    columns = barrier(padded(images.reshape(batch, height, width, channels), 2)).reshape(batch, height, -1)
    starts = [channels * k for k in range(2 * RADIUS + 1)]
    images = sum(
        float(weight) * columns[:, :, start : start + width * channels]
        for start, weight in zip(starts, WEIGHTS, strict=True)
    )
    return images.reshape(batch, height, width, channels)


@jax.jit
def convolutions(images):
    """One pass by two depthwise convolutions."""
    channels = images.shape[3]
    convolve = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
        precision="highest",
    )
    kernel = jnp.broadcast_to(jnp.asarray(WEIGHTS, images.dtype)[:, None, None, None], (WEIGHTS.size, 1, 1, channels))
    return convolve(convolve(padded(images, 1, 2), kernel), kernel.transpose(1, 0, 2, 3))


@jax.jit
def ready_products(images, columns, rows):
    """Apply operators that were computed before: the two dense products and nothing else."""
    planes = jnp.einsum("bchw,vw->bchv", images.transpose(0, 3, 1, 2), rows, precision="highest")
    return jnp.einsum("uh,bchv->bcuv", columns, planes, precision="highest").transpose(0, 2, 3, 1)


def torch_pass(images):
    """Return a function that makes one pass by two depthwise convolutions of PyTorch."""
    import torch

    channels = images.shape[1]
    kernel = torch.tensor(WEIGHTS, dtype=images.dtype).view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    convolve = functools.partial(torch.nn.functional.conv2d, groups=channels)

    def run():
        continued = torch.nn.functional.pad(images, [RADIUS] * 4, mode="reflect")
        return convolve(convolve(continued, kernel), kernel.transpose(2, 3))

    return run


def torchvision_passes(images):
    """Return a function that calls torchvision's ``gaussian_blur`` ten times."""
    from tests.oracles.torchvision_stub import import_torchvision

    import_torchvision()
    from torchvision.transforms.functional import gaussian_blur

    def run():
        blurred = images
        for _ in range(PASSES):
            blurred = gaussian_blur(blurred, kernel_size=[2 * RADIUS + 1] * 2, sigma=[SIGMA] * 2)
        return blurred

    return run


def scipy_passes(images, passes, boundary="symmetric"):
    """Apply SciPy's ``gaussian_filter`` again and again, in the dtype of the images."""
    from scipy.ndimage import gaussian_filter

    for _ in range(passes):
        images = gaussian_filter(images, SIGMA, mode=SCIPY_MODES[boundary], axes=(1, 2))
    return images


def error_rows():
    """Compare the timed function with SciPy in float64 on images of odd size, borders included."""
    images = np.random.default_rng(0).random((2, 223, 225, 3), np.float32)
    for boundary in SCIPY_MODES:
        for passes in (1, 10, 100):
            expected = scipy_passes(images.astype(np.float64), passes, boundary)
            smoothed = smooth(images, sigma=SIGMA, iterations=float(passes), boundary=boundary)
            error = float(np.abs(np.asarray(smoothed) - expected).max())
            yield Row(f"largest difference to SciPy, {boundary}, {passes} passes", error, "", at_most=2e-6)


def time_rows(shape, *, fast=None, flat=None):
    """Time ten passes, and single passes of other making, on images of one shape, against targets if given."""
    import torch

    host = np.random.default_rng(0).random(shape, np.float32)
    images, planar = jnp.asarray(host), torch.from_numpy(host.transpose(0, 3, 1, 2).copy())
    columns, rows = (smoothing_operator(size, sigma=SIGMA, iterations=PASSES) for size in shape[1:3])
    compiling = compile_seconds(smooth, images, sigma=SIGMA, iterations=1.0)
    slope = jax.jit(jax.grad(lambda images: jnp.sum(smooth(images, sigma=SIGMA, iterations=1.0 * PASSES) ** 2)))
    blur = torchvision_passes(planar)
    passes = {
        "shifted sums": lambda: shifted_sums(images),
        "depthwise convolutions": lambda: convolutions(images),
        "PyTorch's depthwise convolutions": torch_pass(planar),
    }
    once = functools.partial(smooth, images, sigma=SIGMA)
    ours = {f"ours {count}": functools.partial(once, iterations=float(count)) for count in (1, PASSES, 1000)}
    others = {
        "torchvision": blur,
        "scheduled sums": lambda: scheduled_sums(images),
        "ready products": lambda: ready_products(images, columns, rows),
        "gradient": lambda: slope(images),
        "SciPy": lambda: scipy_passes(host, PASSES),
    }
    with torch.no_grad():
        mirrored = smooth(images, sigma=SIGMA, iterations=1.0 * PASSES, boundary="mirror")
        difference = float(np.abs(np.asarray(mirrored) - blur().numpy().transpose(0, 2, 3, 1)).max())
        seconds = interleaved(ours | passes | others)
    ten = seconds[f"ours {PASSES}"]
    slowest = max(seconds[name] for name in ours)
    yield Row("ours, 10 passes", 1e3 * ten, "ms")
    yield Row("ours, gradient of 10 passes", 1e3 * seconds["gradient"], "ms")
    yield Row("ours, compilation", compiling, "s")
    yield Row("largest difference to torchvision, 10 passes", difference, "")
    yield Row("torchvision's gaussian_blur 10 times / ours", seconds["torchvision"] / ten, at_least=fast)
    yield Row("SciPy's gaussian_filter 10 times / ours", seconds["SciPy"] / ten)
    yield Row("slowest of 1, 10, 1000 passes / one pass of ours", slowest / seconds["ours 1"], at_most=flat)
    for name in passes:
        yield Row(f"slowest of 1, 10, 1000 passes / one pass by {name}", slowest / seconds[name], at_most=flat)
    yield Row("slowest of 1, 10, 1000 passes / one pass by sums scheduled by hand", slowest / seconds["scheduled sums"])
    yield Row("slowest of 1, 10, 1000 passes / products with ready operators", slowest / seconds["ready products"])


def main():
    """Print the tables."""
    print(f"devices: {jax.devices()}")
    print("\nAccuracy")
    table(error_rows())
    print("\n16 × 224 × 224 × 3")
    table(time_rows((16, 224, 224, 3), fast=30, flat=1.3))
    print("\n128 × 32 × 32 × 3")
    table(time_rows((128, 32, 32, 3)))


if __name__ == "__main__":
    main()
