"""Image files: read whole or refused by name, and written with all that their format holds."""

import contextlib
import io
import logging
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxpurify import files, image_colours, image_tiff
from jaxpurify.formats import Format, check_held
from jaxpurify.image_headers import Header, RefusedError, read_header
from jaxpurify.image_notes import NOTHING, ORIENTATION, UPRIGHT, XMP, XMP_KEYWORD, About, read_about

# Of these one picture is meant, in several sizes or made of layers.
ONE_PICTURE = ("ICO", "ICNS", "CUR", "DDS", "PSD")


class Picture(NamedTuple):
    """An image file's content."""

    pixels: np.ndarray  # uint8 or uint16 (height, width, channel): 1, 3 or 4 channels, sRGB, upright
    about: About = NOTHING


def load(path: str | os.PathLike, *, to_srgb: bool = True) -> Picture:
    """Read an image file.

    Args:
        path: the file.
        to_srgb: whether to convert colours from the file's profile; else they come as they are.

    Returns:
        Its pixels, turned upright and in sRGB, and what else is to be kept.

    Raises:
        ValueError: if the file is missing, may not be read, is truncated, no image, or holds what would be lost.
    """
    from PIL import Image, UnidentifiedImageError

    path, notes = files.expanded(path), list[str]()
    try:
        if not stat.S_ISREG(os.stat(path).st_mode) and not path.is_dir():
            raise RefusedError("is no ordinary file, expected an image file")
        with open(path, "rb") as file, _quiet():
            picture = _decoded(file, path, notes, to_srgb)
    except RefusedError as error:
        raise ValueError(f"{path} {error}") from None
    except MemoryError:
        raise
    except FileNotFoundError:
        why = "is a link to what does not exist" if path.is_symlink() else "does not exist: check the path"
        raise ValueError(f"{path} {why}") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, expected an image file") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that Pillow can read") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large to be read safely ({error}): cut it into parts") from None
    except Exception as error:  # decoders raise whatever they meet in a damaged file
        if isinstance(error, OSError) and error.errno is not None:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        why = " ".join(str(error).split())
        cause = "convert it" if "unsupported" in why.lower() else "is it truncated?"
        raise ValueError(f"{path} cannot be read as an image ({why}): {cause}") from None
    for note in notes:
        warnings.warn(f"{path} {note}", stacklevel=3)
    return picture


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep decoders from saying what is wrong without naming the file: what matters is raised."""
    loggers = [logging.getLogger(name) for name in ("PIL", "tifffile")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _decoded(file: BinaryIO, path: Path, notes: list[str], to_srgb: bool) -> Picture:
    from PIL import Image, ImageOps, UnidentifiedImageError

    head = file.read(4)
    file.seek(0)
    try:
        picture: Any = Image.open(file)
    except UnidentifiedImageError:
        if head not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            raise
        values, profile, about = image_tiff.decode(file)
        return Picture(image_colours.to_srgb(values, profile if to_srgb else None, notes), about)
    kind = picture.format or ""
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and kind == "MPO":
        notes.append(f"holds {frames} pictures, of which the first is read")
    elif frames > 1 and kind not in ONE_PICTURE:
        raise RefusedError(f"holds {frames} frames or pages, expected one image: split it first")
    place = file.tell()
    header = read_header(file, picture)
    file.seek(place)  # where Pillow reads on
    notes += header.notes
    about = read_about(picture, header)
    profile = image_colours.stated_profile(picture, header, notes) if to_srgb else None
    if header.bits == 16 and kind == "PNG":
        turned = UPRIGHT.get(picture.getexif().get(ORIENTATION, 1), np.asarray)
        file.seek(0)
        values = turned(_deep_png(file.read(), picture))
        return Picture(image_colours.to_srgb(values, profile, notes), about)
    if kind == "TIFF" and not image_tiff.left_to_pillow(picture):
        return Picture(image_colours.to_srgb(image_tiff.decode(file)[0], profile, notes), about)
    if header.bits > 8 or picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        raise RefusedError(
            f"has {f'{header.bits} bits a channel' if header.bits > 8 else f'{picture.mode} pixels'}, which are read "
            "from PNG and TIFF files of 16 bits alone: convert it to 8 bits a channel"
        )
    if header.signed:
        raise RefusedError("has signed pixels, expected unsigned ones: convert it")
    if header.opacity == "other":
        raise RefusedError("has a channel besides colour that is not opacity: remove it first")
    picture.load()
    key = picture.info.get("transparency") if picture.mode in ("1", "L", "RGB") else None
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "CMYK":
        return Picture(image_colours.to_srgb(np.asarray(picture), profile, notes, inks=True), about)
    values = _channels(picture, path)
    if kind == "JPEG2000" and header.bits < 8:
        values = _stretched(values, header)
    if key is not None:
        values = _with_key(values, key, header.bits if kind == "PNG" else 8)
    if header.opacity == "multiplied":
        values = image_tiff.divided(values)
    return Picture(image_colours.to_srgb(_as_rgba(values), profile, notes), about)


def _channels(picture: Any, path: Path) -> np.ndarray:
    """Return what Pillow decoded as grey, RGB, or either with opacity."""
    mode = picture.mode
    if mode in ("1", "L", "LA", "La"):
        values = np.asarray(picture.convert("L") if mode == "1" else picture)
        values = values.reshape(*values.shape[:2], -1)
        return image_tiff.divided(values) if mode == "La" else values
    if mode in ("P", "PA"):
        return np.asarray(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))
    if mode == "RGBa":
        return image_tiff.divided(np.asarray(picture))
    if mode not in ("RGB", "RGBA", "RGBX", "YCbCr"):
        raise RefusedError(f"has pixels of the kind {mode}, expected grey, RGB, CMYK or a palette: convert it to RGB")
    return np.asarray(picture if mode in ("RGB", "RGBA") else picture.convert("RGB"))


def _stretched(values: np.ndarray, header: Header) -> np.ndarray:
    """Bring channels of fewer bits than 8, which are only shifted, to 0 to 255."""
    if len(set(header.depths)) > 1:
        raise RefusedError(
            f"has channels of {min(header.depths)} to {header.bits} bits: convert it to 8 bits a channel"
        )
    levels = values >> np.uint8(8 - header.bits)
    return np.rint(levels * (255 / (2**header.bits - 1))).astype(np.uint8)


def _with_key(values: np.ndarray, key: Any, bits: int) -> np.ndarray:
    """Give opacity to an image of which one colour is not shown."""
    levels = np.atleast_1d(key) if bits == 1 else (np.atleast_1d(key) & (2**bits - 1)) * (255 if bits < 16 else 65535)
    levels = levels if bits == 1 else levels // (2**bits - 1)
    shown = (values != levels.astype(values.dtype)).any(axis=-1, keepdims=True)
    return np.concatenate([values, shown * np.iinfo(values.dtype).max], axis=-1, dtype=values.dtype, casting="unsafe")


def _deep_png(content: bytes, picture: Any) -> np.ndarray:
    """Decode a PNG file of 16 bits: Pillow would cut colour to 8."""
    import imagecodecs

    values = imagecodecs.png_decode(content)
    values = values[..., None] if values.ndim == 2 else values
    clear = picture.info.get("transparency")  # one colour that is not shown
    if clear is not None and values.shape[-1] in (1, 3):
        values = _with_key(values, clear, 16)
    return _as_rgba(values)


def _as_rgba(values: np.ndarray) -> np.ndarray:
    """Return grey with opacity as RGB with opacity."""
    return values[..., [0, 0, 0, 1]] if values.shape[-1] == 2 else values


def encode(image: np.ndarray, form: Format, *, about: About = NOTHING) -> bytes:
    """Encode pixels.

    Args:
        image: ``uint8`` or ``uint16`` ``(height, width, channel)``, which the format holds.
        form: the format.
        about: what else is to be written, as far as the format holds it.

    Returns:
        The file's bytes.
    """
    values = np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image)
    if form.pillow == "PNG":
        return _encode_png(values, form, about)
    if values.dtype == np.uint16:
        return image_tiff.encode(values, about)
    from PIL import Image

    content, options = io.BytesIO(), dict(form.options)
    options |= {"exif": about.exif} if about.exif and form.exif else {}
    options |= {"dpi": about.density} if about.density and form.density else {}
    if about.xmp and form.pillow == "TIFF":
        options["exif"] = Image.Exif()
        options["exif"].load(about.exif)
        options["exif"][XMP] = about.xmp
    elif about.xmp and form.xmp:
        options["xmp"] = about.xmp
    if form.pillow == "JPEG" and "Comment" in about.texts:
        options["comment"] = about.texts["Comment"]
    Image.fromarray(values).save(content, format=form.pillow, **options)
    return content.getvalue()


def _encode_png(values: np.ndarray, form: Format, about: About) -> bytes:
    from PIL import Image

    texts = about.texts if about.xmp is None else {XMP_KEYWORD: about.xmp.decode("utf-8", "replace"), **about.texts}
    chunks = b""
    if about.density:
        chunks += _chunk(b"pHYs", struct.pack(">IIB", *(round(each / 0.0254) for each in about.density), 1))
    if about.exif:
        chunks += _chunk(b"eXIf", about.exif.removeprefix(b"Exif\0\0"))
    for keyword, text in texts.items():  # keyword, not compressed, no language, no translation
        chunks += _chunk(b"iTXt", keyword.encode("latin-1", "replace")[:79] + bytes(5) + text.encode())
    if values.dtype == np.uint16:
        import imagecodecs

        content = bytes(imagecodecs.png_encode(values))
    else:
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, format="PNG", **form.options)
        content = buffer.getvalue()
    return content[:33] + chunks + content[33:]  # after the signature and the header


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def save(path: Path, image: np.ndarray, *, about: About = NOTHING) -> None:
    """Write an image file, whole or not at all; a warning says what its format does not hold besides pixels.

    Args:
        path: where to; its ending says the format.
        image: ``uint8`` or ``uint16`` ``(height, width, channel)``.
        about: what else is to be kept, as ``load`` has it.

    Raises:
        OSError: if it cannot be written.
        ValueError: if the format does not hold the image.
    """
    form = check_held(path, image.shape, image.dtype)
    try:
        content = encode(image, form, about=about)
    except Exception as error:
        raise ValueError(f"{path} cannot be written as {form.name} ({error}): write a .png instead") from error
    files.write_whole(path, lambda file: file.write(content))
    deep_tiff = form.name == "TIFF" and image.dtype == np.uint16
    lost = {
        "the camera's notes (EXIF)": about.exif and (deep_tiff or not form.exif),
        "the editor's notes (XMP)": about.xmp and not form.xmp,
        "its texts": not form.texts and about.texts.keys() - ({"Comment"} if form.name == "JPEG" else set()),
    }
    if any(lost.values()):
        names = " and ".join(name for name, left_out in lost.items() if left_out)
        warnings.warn(f"{path} cannot hold {names}, which are left out", stacklevel=3)
    if about.left_out:
        warnings.warn(f"{path} is written without {' and '.join(about.left_out)}", stacklevel=3)
