"""JPEG beside kornia and Pillow: ``python -m benchmarks.jpeg``.

Every function is warm and gets float32 images in the layout it likes best: kornia gets planar ones, ours
``(batch, height, width, channel)``, Pillow bytes. Quality is 75, colour 4:2:0, the only subsampling that kornia has.
"""

import io

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Row, compile_seconds, interleaved, table
from jaxpurify.transforms.jpeg import SUBSAMPLINGS, jpeg, smooth_jpeg

QUALITIES = (30, 75, 95)

exact = jax.jit(jpeg, static_argnames="subsampling")
smooth = jax.jit(smooth_jpeg, static_argnames="subsampling")
slope = jax.jit(jax.grad(lambda images: jnp.sum(smooth_jpeg(images) ** 2)))


def photographs(count, side):
    """Cut squares from a photograph of scikit-image, uint8."""
    from skimage import data

    picture = data.astronaut()
    corners = np.linspace(0, len(picture) - side, count).astype(int)
    return np.stack([picture[y : y + side, x : x + side] for y, x in zip(corners, corners[::-1], strict=True)])


def pillow(images, quality=75, subsampling="4:2:0"):
    """Write images as JPEG with Pillow, and read them."""
    from PIL import Image

    purified = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=subsampling)
        purified.append(np.asarray(Image.open(file)))
    return np.stack(purified)


def kornia(images):
    """Return functions that run kornia's differentiable codec forward, and forward and backward."""
    import torch
    from kornia.enhance import jpeg_codec_differentiable

    planar = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    quality = torch.tensor([75.0])

    def forward():
        with torch.no_grad():
            return jpeg_codec_differentiable(planar, quality)

    def gradient():
        leaf = planar.clone().requires_grad_()
        (jpeg_codec_differentiable(leaf, quality) ** 2).sum().backward()
        return leaf.grad

    return forward, gradient


def agreement(purified, expected):
    """Return which share of values is equal to Pillow's, and which within one level, in per cent."""
    difference = np.abs(np.rint(np.clip(purified, 0, 1) * 255) - expected)
    return 100 * np.mean(difference == 0), 100 * np.mean(difference <= 1)


def agreement_rows():
    """Compare the timed functions with Pillow."""
    pixels = photographs(4, 299)
    images = jnp.asarray(pixels, jnp.float32) / 255
    for subsampling in SUBSAMPLINGS:
        for quality in QUALITIES:
            expected = pillow(pixels, quality, subsampling)
            for name, function, target in (("exact", exact, 99.5), ("surrogate", smooth, 94)):
                purified = function(images, quality=float(quality), subsampling=subsampling)
                equal, within = agreement(np.asarray(purified), expected)
                where = f"{name}, {subsampling}, quality {quality}"
                yield Row(f"{where}: equal to Pillow", equal, "%")
                yield Row(f"{where}: within one level", within, "%", at_least=target)


def time_rows(count, side, *, exact_target=None, smooth_target=None):
    """Time the codecs on images of one shape, against targets if given."""
    pixels = photographs(count, side)
    host = pixels.astype(np.float32) / 255
    images = jnp.asarray(host)
    forward, gradient = kornia(host)
    compiling = compile_seconds(exact, images), compile_seconds(smooth, images)
    seconds = interleaved(
        {
            "exact": lambda: exact(images),
            "smooth": lambda: smooth(images),
            "slope": lambda: slope(images),
            "kornia": forward,
            "kornia's slope": gradient,
            "Pillow": lambda: pillow(pixels),
        }
    )
    _, within = agreement(forward().numpy().transpose(0, 2, 3, 1), pillow(pixels))
    yield Row("exact", 1e3 * seconds["exact"], "ms")
    yield Row("surrogate", 1e3 * seconds["smooth"], "ms")
    yield Row("surrogate, forward and backward", 1e3 * seconds["slope"], "ms")
    yield Row("kornia", 1e3 * seconds["kornia"], "ms")
    yield Row("Pillow, writing and reading in memory", 1e3 * seconds["Pillow"], "ms")
    yield Row("exact, compilation", compiling[0], "s")
    yield Row("surrogate, compilation", compiling[1], "s")
    yield Row("kornia / exact", seconds["kornia"] / seconds["exact"], at_least=exact_target)
    yield Row("kornia / surrogate", seconds["kornia"] / seconds["smooth"], at_least=smooth_target)
    yield Row("kornia forward and backward / surrogate", seconds["kornia's slope"] / seconds["slope"])
    yield Row("Pillow / exact", seconds["Pillow"] / seconds["exact"])
    yield Row("kornia: within one level of Pillow", within, "%")


def main():
    """Print the tables."""
    print(f"devices: {jax.devices()}")
    print("\nAgreement with Pillow, 4 × 299 × 299 × 3")
    table(agreement_rows())
    print("\n16 × 224 × 224 × 3")
    table(time_rows(16, 224, exact_target=3, smooth_target=5))
    print("\n128 × 32 × 32 × 3")
    table(time_rows(128, 32))


if __name__ == "__main__":
    main()
