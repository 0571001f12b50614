"""The image convention and its checks; saturation, resizing and colour; reading and writing files.

Images are ``float32`` of shape ``(batch, height, width, channel)`` with values in [0, 1]. Inside a computation only
shape and dtype are checked, statically; values are checked once, on the host, at the front doors.
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpurify import files, image_files
from jaxpurify.checks import is_from, kind

TOLERANCE = 1e-6
CHANNELS = (1, 2, 3, 4)
_OURS = np.ndarray | np.generic | jax.Array | jax.ShapeDtypeStruct


def check_images(images: Any, *, name: str = "images", features: bool = False) -> None:
    """Check shape and dtype, statically, so that it works under ``jit``.

    Args:
        images: what the caller gave.
        name: the argument's name, for the message.
        features: whether feature maps of any number of channels are meant too.

    Raises:
        TypeError: if the dtype is not a float of 32 or 64 bits.
        ValueError: if the shape is not ``(batch, height, width, channel)`` or the batch is empty.
    """
    expected = f"{name} must be float32 of shape (batch, height, width, channel) with values in [0, 1]"
    shape, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
    if shape is None or dtype is None or not isinstance(images, _OURS):
        raise TypeError(f"{expected}, got {kind(images)}: {_remedy(images)}")
    if dtype == np.uint8:
        raise TypeError(f"{expected}, got uint8: divide by 255 and convert to float32, or use jaxpurify.purify")
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"{expected}, got {dtype}: {_to_float(dtype)}")
    if len(shape) != 4:
        raise ValueError(f"{expected}, got shape {shape}{_axes(shape)}")
    if shape[0] == 0:
        raise ValueError(f"{expected}, got an empty batch of shape {shape}")
    if 0 in shape:
        raise ValueError(f"{expected}, got shape {shape}, which has no pixels")
    if not features and shape[1] in (1, 3) and shape[3] not in CHANNELS:
        raise ValueError(f"{expected}, got shape {shape}: channels first? use images.transpose(0, 2, 3, 1)")


def as_array(value: Any, *, name: str = "images") -> Any:
    """Turn an array of another library into NumPy's; what is NumPy's, JAX's or being traced is left alone.

    Of NumPy's, bytes in another machine's order are put into this one's, and an array with nothing masked is unwrapped.

    Arrays of PyTorch, TensorFlow, pandas, Pillow and whatever else NumPy can read are taken, of the same dtype. What
    is not an array, a list for example, is left for ``check_images`` and ``check_labels`` to judge.

    Args:
        value: what the caller gave.
        name: the argument's name, for the message.

    Returns:
        A NumPy array, or what was given.

    Raises:
        TypeError: if it is an array whose numbers cannot be read as they are: on an accelerator, sparse or masked.
    """
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TypeError(f"{name} must have a value everywhere, got a masked array: use {name.split()[0]}.filled(...)")
    if isinstance(value, np.ma.MaskedArray):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    if isinstance(value, _OURS | type):
        return value
    if hasattr(value, "__jax_array__"):
        return value.__jax_array__()
    try:
        if is_from(value, "torch", "Tensor"):
            value = value.detach().resolve_conj().resolve_neg()
            # NumPy has no bfloat16 of its own, and every value of it is a float32.
            half = str(value.dtype) == "torch.bfloat16"
            return value.float().numpy().astype(jnp.bfloat16) if half else value.numpy()
        if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
            return np.asarray(value)
        return np.from_dlpack(value) if hasattr(value, "__dlpack__") else value
    except Exception as error:
        raise TypeError(f"{name} must be an array that NumPy can read, got {kind(value)}: {_remedy(value)}") from error


def as_jax(images: Any) -> Any:
    """Turn floats of NumPy or of another library into a JAX array; the rest is left for ``check_images`` to judge.

    Args:
        images: what the caller gave.

    Returns:
        A JAX array, or what was given.
    """
    images = as_array(images)
    return jnp.asarray(images) if isinstance(images, np.ndarray) and images.dtype.kind == "f" else images


def _remedy(value: Any) -> str:
    """Say how to make an array of something else."""
    if is_from(value, "torch", "Tensor"):
        return "pass tensor.detach().cpu().numpy(), dense"
    if isinstance(value, list | tuple):
        return "pass an array, such as numpy.asarray(...)"
    return "pass an array of NumPy or JAX"


def _to_float(dtype: Any) -> str:
    """Say how to make floating point of a dtype, whose levels it depends on."""
    if dtype == np.uint16:
        return "16-bit levels? divide by 65535 and convert to float32"
    if jnp.issubdtype(dtype, jnp.integer):
        return "8-bit levels? divide by 255 and convert to float32"
    return "a mask? convert to float32" if dtype == np.bool_ else "convert to float32"


def _axes(shape: tuple[int, ...]) -> str:
    """Say which axis images without the right four are likely to lack."""
    if len(shape) == 3 and shape[2] in CHANNELS:
        return ": one image? add a batch axis with images[None]"
    if len(shape) == 3:
        return ": grey images? add a channel axis with images[..., None]; one image? a batch axis with images[None]"
    return ": one grey image? use images[None, ..., None]" if len(shape) == 2 else ""


def check_values(images: Any, *, name: str = "images") -> None:
    """Check on the host that every value is finite and in [0, 1], with a tolerance of 1e-6.

    Args:
        images: array of images, concrete.
        name: the argument's name, for the message.

    Raises:
        ValueError: if a value is not finite or out of range.
    """
    values = np.asarray(images)
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        places = np.argwhere(~np.isfinite(values))
        where = np.unique(places[:, 0])
        told = f"in image {where[0]} ({len(where)} in all)"
        if values.ndim in (2, 3):  # one image
            told = f"in {len(places)} of its values, first in row {places[0, 0]} and column {places[0, 1]}"
        raise ValueError(f"{name} must be finite, got NaN or infinity {told}")
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        cause = (
            "still in 0–255? divide by 255" if high > 1.5 else "normalised? normalisation belongs inside the network"
        )
        raise ValueError(f"{name} must be in [0, 1], got values from {low:.6g} to {high:.6g}: {cause}")


def check_colour(images: Any, *, name: str = "images") -> None:
    """Check, statically, that images have three channels.

    Args:
        images: array whose last axis is the channel.
        name: the argument's name, for the message.

    Raises:
        ValueError: if they have not.
    """
    if images.shape[-1] != 3:
        raise ValueError(f"{name} must have 3 channels (RGB), got {images.shape[-1]}, in shape {images.shape}")


def check_labels(labels: Any, count: int, *, classes: int | None = None, name: str = "labels") -> None:
    """Check that labels are integers, one an image, and (where they can be looked at) in range.

    Args:
        labels: what the caller gave.
        count: number of images.
        classes: number of classes, where known.
        name: the argument's name, for messages.

    Raises:
        TypeError: if they are not integers.
        ValueError: if their number differs from ``count`` or one is outside ``[0, classes)``.
    """
    expected, short = f"{name} must be an array of integers of shape ({count},)", name.split()[0]
    if not isinstance(labels, _OURS):
        raise TypeError(f"{expected}, got {kind(labels)}: {_remedy(labels)}")
    shape, dtype = labels.shape, labels.dtype
    if not jnp.issubdtype(dtype, np.integer):
        cause = (
            f"class numbers, not one-hot: use {short}.argmax(axis=1)"
            if len(shape) == 2 and shape[1] > 1
            else (f"class numbers? use {short}.astype('int32')")
        )
        raise TypeError(f"{expected}, got {dtype}: {cause}")
    if shape != (count,):
        cause = ""
        if shape == (count, 1):
            cause = f": use {short}[:, 0]"
        elif len(shape) == 2 and shape[0] == count:
            cause = f": one-hot? use {short}.argmax(axis=1)"
        raise ValueError(f"{name} must have one entry an image, expected shape ({count},), got {shape}{cause}")
    if isinstance(labels, jax.core.Tracer):
        return
    low, high = int(np.asarray(labels).min()), int(np.asarray(labels).max())
    if low < 0 or high >= (2**31 if classes is None else classes):
        cause = "1-based labels? subtract 1" if high == classes else "are these another data set's classes?"
        cause = "images without a class? leave them out" if low < 0 else cause
        wanted = "classes" if classes is None else classes
        raise ValueError(f"{name} must be in [0, {wanted}), got values from {low} to {high}: {cause}")


@jax.custom_vjp
def saturate(images: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Clip to [0, 1] without masking the gradient of black and white pixels.

    Forward it is ``clip``. Backward, the gradient of a loss that is *raised* passes where the value is within [0, 1],
    both ends included, or where moving along the gradient leads back inside; a plain clip would zero or
    halve it on every black and white pixel and so hide them from an attack.

    Args:
        images: values of any shape.

    Returns:
        Values in [0, 1], same shape and dtype.

    Source: our choice. Forward-mode differentiation is not available, since the rule depends on the gradient's sign.
    """
    return jnp.clip(images, 0, 1)


def _saturate_forward(images):
    return jnp.clip(images, 0, 1), images


def _saturate_backward(images, gradient):
    inward = ((images > 1) & (gradient < 0)) | ((images < 0) & (gradient > 0))
    inside = (images >= 0) & (images <= 1)
    return (jnp.where(inside | inward, gradient, jnp.zeros_like(gradient)),)


saturate.defvjp(_saturate_forward, _saturate_backward)


def resize(images: Array, *, height: int, width: int, method: str = "bicubic") -> Array:
    """Resize images, with antialiasing where they shrink.

    Args:
        images: shape ``(batch, height, width, channel)``.
        height: new height in pixels.
        width: new width in pixels.
        method: ``"nearest"``, ``"bilinear"``, ``"bicubic"`` (Keys, a = −0.5), ``"lanczos3"`` or ``"lanczos5"``.

    Returns:
        Shape ``(batch, height, width, channel)``, same dtype, not clipped.

    Source: ``jax.image.resize``.
    """
    shape = (images.shape[0], height, width, images.shape[3])
    return jax.image.resize(images, shape, method=method, precision="highest")


# ITU-R BT.601 with the full range, as JFIF has it.
LUMA = np.array([0.299, 0.587, 0.114])
TO_YCBCR = np.stack([LUMA, ([0, 0, 1] - LUMA) / (2 * (1 - LUMA[2])), ([1, 0, 0] - LUMA) / (2 * (1 - LUMA[0]))])
_YCBCR_OFFSET = np.array([0.0, 0.5, 0.5])


def rgb_to_ycbcr(images: Array) -> Array:
    """Convert RGB in [0, 1] to luma and colour differences in [0, 1] (grey is 0.5).

    Args:
        images: shape ``(..., 3)``, RGB.

    Returns:
        Same shape and dtype.

    Source: ITU-R BT.601 with the full range, as in JFIF.
    """
    matrix = jnp.asarray(TO_YCBCR.T, images.dtype)
    offset = jnp.asarray(_YCBCR_OFFSET, images.dtype).reshape((1,) * (images.ndim - 1) + (3,))
    return jnp.matmul(images, matrix, precision="highest") + offset


def ycbcr_to_rgb(images: Array) -> Array:
    """Convert luma and colour differences in [0, 1] back to RGB; the inverse of ``rgb_to_ycbcr``.

    Args:
        images: shape ``(..., 3)``, YCbCr.

    Returns:
        Same shape and dtype, not clipped.

    Source: ITU-R BT.601 with the full range, as in JFIF.
    """
    matrix = jnp.asarray(np.linalg.inv(TO_YCBCR).T, images.dtype)
    offset = jnp.asarray(_YCBCR_OFFSET, images.dtype).reshape((1,) * (images.ndim - 1) + (3,))
    return jnp.matmul(images - offset, matrix, precision="highest")


def read(path: str | os.PathLike) -> np.ndarray:
    """Read an image file, turned upright as its EXIF orientation says, its colours converted to sRGB.

    Args:
        path: a PNG, JPEG, TIFF or any other file that Pillow reads, with one frame or page.

    Returns:
        ``uint8``, or ``uint16`` of a PNG or TIFF file with 16 bits a channel, of shape ``(height, width, channel)``,
        with 1 (grey), 3 (RGB) or 4 (RGB and opacity) channels.

    Raises:
        ValueError: if the file is missing, may not be read, is truncated or no image, or holds what would be lost:
            several frames, floating point, or 16 bits in another format.
    """
    return image_files.load(path).pixels


def deep_as_float(pixels: np.ndarray) -> np.ndarray:
    """Bring pixels of 16 bits to [0, 1], so that they are ``uint8`` or floating point as everywhere else.

    Args:
        pixels: of any shape.

    Returns:
        ``float32`` in [0, 1] for ``uint16``; anything else as it is.
    """
    return pixels.astype(np.float32) / np.float32(65535) if pixels.dtype == np.uint16 else pixels


def write(path: str | os.PathLike, image: Any) -> None:
    """Write an image file, whole or not at all.

    Args:
        path: where to; the ending says the format. All formats keep every pixel but AVIF and JPEG, which is written at
            quality 95 without subsampling, since what it loses by default would purify by itself.
        image: shape ``(height, width)`` or ``(height, width, channel)`` with 1 to 4 channels; ``uint8``, ``uint16``
            (PNG and TIFF), or float in [0, 1], which is rounded to 8 bits.

    Raises:
        OSError: if it cannot be written: a folder that is not there, a full disk.
        TypeError: if the array is of another type.
        ValueError: if it has another shape or values out of range, or the format does not hold it.
    """
    path, values = files.expanded(path), as_array(image, name="image")
    expected = "image must be uint8, uint16, or floating point with values in [0, 1]"
    dtype = getattr(values, "dtype", None)
    if not isinstance(values, np.ndarray | jax.Array) or dtype is None:
        raise TypeError(f"{expected}, got {kind(values)}: {_remedy(values)}")
    floating = jnp.issubdtype(dtype, jnp.floating)
    if not floating and dtype not in (np.uint8, np.uint16):
        raise TypeError(f"{expected}, got {dtype}: {to_levels(dtype)}")
    values = np.asarray(values)
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[-1] not in CHANNELS or 0 in values.shape:
        raise ValueError(
            "image must have shape (height, width) or (height, width, channel) with 1 to 4 channels, got "
            f"{values.shape}"
        )
    if floating:
        check_values(values.astype(np.float64), name="image")
        values = np.rint(np.clip(values.astype(np.float64), 0, 1) * 255).astype(np.uint8)
    image_files.save(path, values)


def to_levels(dtype: Any) -> str:
    """Say how to make pixels of numbers that are neither floating point nor ``uint8``.

    Args:
        dtype: what they are.

    Returns:
        The remedy in a few words.
    """
    if dtype == np.bool_:
        return "a mask? convert with images.astype('float32')"
    if dtype == np.uint16:
        return "16-bit levels? divide by 65535, as in (images / 65535).astype('float32')"
    if jnp.issubdtype(dtype, jnp.integer):
        return "8-bit levels? convert with images.astype('uint8')"
    return "convert to float32"
