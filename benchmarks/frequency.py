"""Frequency masks beside SciPy's and PyTorch's transforms: ``python -m benchmarks.frequency``.

Every function is warm, multiplies the coefficients of 16 × 224 × 224 × 3 float32 images by the same masks and returns
images. SciPy uses two workers. PyTorch gets planar images and computes cosine transforms by its FFT (Makhoul 1980).
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from benchmarks.timing import Row, compile_seconds, interleaved, table
from jaxpurify.purifiers import RandomFrequencyMask
from jaxpurify.transforms.dct import cosine_basis, dct_filter
from jaxpurify.transforms.frequency_mask import frequency_mask

SHAPE = (16, 224, 224, 3)


def scipy_filter(images, masks):
    """Transform, multiply in place, transform back."""
    coefficients = scipy.fft.dctn(images, axes=(1, 2), norm="ortho", workers=2)
    coefficients *= masks[..., None]
    return scipy.fft.idctn(coefficients, axes=(1, 2), norm="ortho", workers=2)


@jax.jit
def plain_products(images, masks):
    """Do it in dense products without folding."""
    rows, columns = (jnp.asarray(cosine_basis(size)[0], images.dtype) for size in images.shape[1:3])
    planes = jnp.einsum("bchw,vw->bchv", images.transpose(0, 3, 1, 2), columns, precision="highest")
    planes = jnp.einsum("uh,bchv->bcuv", rows, planes, precision="highest") * masks[:, None]
    planes = jnp.einsum("uh,bcuv->bchv", rows, planes, precision="highest")
    return jnp.einsum("bchv,vw->bchw", planes, columns, precision="highest").transpose(0, 2, 3, 1)


def torch_filter(images, masks):
    """Return a function that does it by PyTorch's FFT, axis by axis."""
    import torch

    planes, masks = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(masks.copy())[:, None]

    def forward(values):
        size = values.shape[-1]
        ordered = torch.cat([values[..., ::2], values[..., 1::2].flip(-1)], dim=-1)
        angle = np.pi / (2 * size) * torch.arange(size)
        spectrum = torch.fft.fft(ordered, dim=-1)
        coefficients = (spectrum.real * torch.cos(angle) + spectrum.imag * torch.sin(angle)) * (2 / size) ** 0.5
        coefficients[..., 0] /= 2**0.5
        return coefficients

    def backward(coefficients):
        size = coefficients.shape[-1]
        coefficients = coefficients * (size / 2) ** 0.5
        coefficients[..., 0] *= 2**0.5
        angle = np.pi / (2 * size) * torch.arange(size)
        imaginary = torch.cat([torch.zeros_like(coefficients[..., :1]), -coefficients.flip(-1)[..., :-1]], dim=-1)
        real = coefficients * torch.cos(angle) - imaginary * torch.sin(angle)
        imaginary = coefficients * torch.sin(angle) + imaginary * torch.cos(angle)
        ordered = torch.fft.irfft(torch.complex(real, imaginary)[..., : size // 2 + 1], n=size, dim=-1)
        values = torch.empty_like(ordered)
        values[..., ::2] = ordered[..., : size - size // 2]
        values[..., 1::2] = ordered.flip(-1)[..., : size // 2]
        return values

    def run():
        coefficients = forward(forward(planes).transpose(-1, -2)).transpose(-1, -2) * masks
        return backward(backward(coefficients.transpose(-1, -2)).transpose(-1, -2))

    return run


def rows():
    """Measure."""
    host = np.random.default_rng(0).random(SHAPE, np.float32)
    images, key = jnp.asarray(host), jax.random.key(0)
    masks = frequency_mask(jax.random.split(key, SHAPE[0]), height=SHAPE[1], width=SHAPE[2])
    host_masks = np.asarray(masks)
    purify = jax.jit(lambda purifier, images, key: purifier(images, key))
    cosine, fourier = RandomFrequencyMask(), RandomFrequencyMask(transform="fft")
    slope = jax.jit(jax.grad(lambda images, masks: jnp.sum(dct_filter(images, masks) ** 2)))
    draw = jax.jit(lambda keys: frequency_mask(keys, height=SHAPE[1], width=SHAPE[2]))
    compiling = compile_seconds(purify, cosine, images, key)
    by_torch = torch_filter(host, host_masks)
    expected = scipy_filter(host.astype(np.float64), host_masks)
    peers = {
        "largest difference to SciPy in float64": np.asarray(dct_filter(images, masks)),
        "PyTorch's": by_torch().numpy().transpose(0, 2, 3, 1),
    }
    seconds = interleaved(
        {
            "ours": lambda: dct_filter(images, masks),
            "SciPy": lambda: scipy_filter(host, host_masks),
            "PyTorch": by_torch,
            "plain": lambda: plain_products(images, masks),
            "gradient": lambda: slope(images, masks),
            "draw": lambda: draw(jax.random.split(key, SHAPE[0])),
            "purifier": lambda: purify(cosine, images, key),
            "fourier": lambda: purify(fourier, images, key),
        },
        repeats=15,
    )
    ours = seconds["ours"]
    for name, values in peers.items():
        yield Row(name, float(np.abs(values - expected).max()), "", at_most=1e-5)
    yield Row("ours: transform, mask, inverse", 1e3 * ours, "ms")
    yield Row("SciPy's dctn and idctn, two workers / ours", seconds["SciPy"] / ours, at_least=1.2)
    yield Row("PyTorch by FFT / ours", seconds["PyTorch"] / ours, at_least=2)
    yield Row("dense products without folding / ours", seconds["plain"] / ours)
    yield Row("gradient of its square / ours", seconds["gradient"] / ours)
    yield Row("drawing the masks", 1e3 * seconds["draw"], "ms")
    yield Row("the purifier, masks drawn, by cosines", 1e3 * seconds["purifier"], "ms")
    yield Row("the purifier, masks drawn, by Fourier", 1e3 * seconds["fourier"], "ms")
    yield Row("compilation of the purifier", compiling, "s")


def main():
    """Print the table."""
    print(f"devices: {jax.devices()}")
    table(rows())


if __name__ == "__main__":
    main()
