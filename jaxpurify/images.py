"""The image convention and its checks; saturation, resizing and colour; reading and writing files.

Images are ``float32`` of shape ``(batch, height, width, channel)`` with values in [0, 1]. Inside a computation only
shape and dtype are checked, statically; values are checked once, on the host, at the front doors.
"""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpurify.files import write_whole

TOLERANCE = 1e-6
CHANNELS = (1, 2, 3, 4)


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
    if shape is None or dtype is None:
        raise TypeError(f"{expected}, got {type(images).__name__}: pass an array")
    if dtype == np.uint8:
        raise TypeError(f"{expected}, got uint8: divide by 255 and convert to float32, or use jaxpurify.purify")
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"{expected}, got {dtype}: convert to float32")
    if len(shape) == 3:
        raise ValueError(f"{expected}, got shape {shape}: one image? add a batch axis with images[None]")
    if len(shape) != 4:
        raise ValueError(f"{expected}, got shape {shape}")
    if shape[0] == 0:
        raise ValueError(f"{expected}, got an empty batch of shape {shape}")
    if 0 in shape:
        raise ValueError(f"{expected}, got shape {shape}, which has no pixels")
    if not features and shape[1] in (1, 3) and shape[3] not in CHANNELS:
        raise ValueError(f"{expected}, got shape {shape}: channels first? use images.transpose(0, 2, 3, 1)")


def as_jax(images: Any) -> Any:
    """Turn a NumPy array of floats into a JAX array; what is none is left for ``check_images`` to judge.

    Args:
        images: what the caller gave.

    Returns:
        A JAX array, or what was given.
    """
    return jnp.asarray(images) if isinstance(images, np.ndarray) and images.dtype.kind == "f" else images


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
        where = np.unique(np.argwhere(~np.isfinite(values))[:, 0])
        raise ValueError(f"{name} must be finite, got NaN or infinity in image {where[0]} ({len(where)} in all)")
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
    shape, dtype = getattr(labels, "shape", None), getattr(labels, "dtype", None)
    if shape is None or dtype is None or not np.issubdtype(dtype, np.integer):
        got = type(labels).__name__ if dtype is None else str(dtype)
        raise TypeError(
            f"{name} must be an array of integers of shape ({count},), got {got}: class numbers, not one-hot"
        )
    if shape != (count,):
        raise ValueError(f"{name} must have one entry an image, expected shape ({count},), got {shape}")
    if isinstance(labels, jax.core.Tracer):
        return
    values = np.asarray(labels)
    top = np.inf if classes is None else classes
    if values.min() < 0 or values.max() >= top:
        raise ValueError(
            f"{name} must be in [0, {classes if classes is not None else 'classes'}), got values from "
            f"{values.min()} to {values.max()}: 1-based labels? subtract 1"
        )


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
    """Read an image file with Pillow, turned upright as its EXIF orientation says.

    Args:
        path: a PNG, JPEG or any other file that Pillow reads.

    Returns:
        ``uint8`` of shape ``(height, width, channel)``, with 1 (grey), 3 (RGB) or 4 (RGB and opacity) channels.

    Raises:
        ValueError: if the file is missing, truncated or no image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            opaque = "A" not in picture.getbands() and "transparency" not in picture.info
            grey = picture.mode in ("1", "L") or picture.mode.startswith("I;16")
            if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
                raise ValueError(f"{path} has {picture.mode} pixels: convert it to 8 bits a channel")
            picture = picture.convert("L" if grey and opaque else "RGB" if opaque else "RGBA")
            values = np.asarray(picture)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: check the path") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, expected an image file") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that Pillow can read") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large to be read safely ({error}): cut it into parts") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}): is it truncated?") from None
    return values[..., None] if values.ndim == 2 else values


_SAVING: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}


def write(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write an image file, whole or not at all.

    Args:
        path: where to; the ending says the format. PNG and WebP keep every pixel. JPEG does not: it is written at
            quality 95 without subsampling, since what it loses by default would purify by itself.
        image: shape ``(height, width, channel)``, ``uint8``, or float in [0, 1], which is rounded to 8 bits.

    Raises:
        OSError: if the folder cannot be written to.
        ValueError: if the ending is not one that Pillow writes, or the format cannot hold that many channels.
    """
    from PIL import Image

    path = Path(path)
    values = np.asarray(image)
    if values.dtype != np.uint8:
        values = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    kind = Image.registered_extensions().get(path.suffix.lower(), "")
    if kind not in Image.SAVE:
        raise ValueError(f"{path} has no ending of an image format, expected one such as .png")
    picture = Image.fromarray(values.squeeze(-1) if values.shape[-1] == 1 else values)
    try:
        write_whole(path, lambda file: picture.save(file, format=kind, **_SAVING.get(kind, {})))
    except OSError as error:
        if "cannot write mode" not in str(error):
            raise
        raise ValueError(f"{path} cannot hold {values.shape[-1]} channels: write a .png instead") from None
