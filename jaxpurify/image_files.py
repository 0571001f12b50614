"""Image files: read whole or refused by name, and written with all that their format holds."""

import contextlib
import io
import logging
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxpurify import files
from jaxpurify.formats import Format, check_held
from jaxpurify.image_notes import NOTHING, ORIENTATION, XMP, XMP_KEYWORD, About, read_about

HEAD = 4096  # bytes in which a format says how deep its pixels are
PROFILE = 34675  # the tag of a colour profile
# Of these one picture is meant, in several sizes or made of layers.
ONE_PICTURE = ("ICO", "ICNS", "CUR", "DDS", "PSD")
UPRIGHT = {  # by orientation
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: image.swapaxes(0, 1)[::-1],
}


class Picture(NamedTuple):
    """An image file's content."""

    pixels: np.ndarray  # uint8 or uint16 (height, width, channel): 1, 3 or 4 channels, sRGB, upright
    about: About = NOTHING


class _RefusedError(ValueError):
    """What was read is understood, and cannot be taken."""


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
            raise _RefusedError(f"{path} is no ordinary file, expected an image file")
        with open(path, "rb") as file, _quiet():
            picture = _decoded(file, path, notes, to_srgb)
    except (_RefusedError, MemoryError):
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
        raise ValueError(
            f"{path} cannot be read as an image ({' '.join(str(error).split())}): is it truncated?"
        ) from None
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

    head = file.read(HEAD)
    file.seek(0)
    try:
        picture: Any = Image.open(file)
    except UnidentifiedImageError:
        if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            raise
        return Picture(_deep_tiff(file, path))
    kind, bits = picture.format or "", _bits(head, picture)
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and kind == "MPO":
        notes.append(f"holds {frames} pictures, of which the first is read")
    elif frames > 1 and kind not in ONE_PICTURE:
        raise _RefusedError(f"{path} holds {frames} frames or pages, expected one image: split it first")
    about = read_about(picture)
    profile = picture.info.get("icc_profile") if to_srgb else None
    if bits == 16 and kind == "PNG":
        file.seek(0)
        turned = UPRIGHT.get(picture.getexif().get(ORIENTATION, 1), np.asarray)
        values = turned(_deep_png(file.read(), picture))
        return Picture(_in_srgb(values, profile, notes), about)
    if bits > 8 and kind == "TIFF":
        return Picture(_deep_tiff(file, path, notes), about)
    if bits > 8 or picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        raise _RefusedError(
            f"{path} has {f'{bits} bits a channel' if bits > 8 else f'{picture.mode} pixels'}, which are read from PNG "
            "and TIFF files of 16 bits alone: convert it to 8 bits a channel"
        )
    picture = ImageOps.exif_transpose(picture)
    opaque = "A" not in picture.getbands() and "a" not in picture.getbands() and "transparency" not in picture.info
    if picture.mode == "CMYK" and profile:
        return Picture(_in_srgb(np.asarray(picture), profile, notes), about)
    grey = picture.mode in ("1", "L", "LA", "La")
    values = np.asarray(picture.convert("L" if grey and opaque else "RGB" if opaque else "RGBA"))
    values = values[..., None] if values.ndim == 2 else values
    return Picture(_in_srgb(values, profile, notes, grey=grey), about)


def _bits(head: bytes, picture: Any) -> int:
    """Return the depth of a channel, which Pillow hides where it cuts pixels to 8 bits."""
    kind = picture.format
    if kind == "PNG":
        return head[24]
    if kind == "TIFF":
        return max(picture.tag_v2.get(258, (1,)))
    if kind == "SGI":
        return 8 * head[3]
    if kind == "PPM" and isinstance(arguments := picture.tile[0][3], tuple) and len(arguments) == 2:
        return int(arguments[1]).bit_length()
    if kind == "JPEG2000" and (found := re.search(rb"\xff\x4f\xff\x51.{36}(..)", head, re.DOTALL)):
        depths = head[found.end() : found.end() + 3 * struct.unpack(">H", found[1])[0] : 3]
        return max((depth % 128 + 1 for depth in depths), default=8)
    if kind == "AVIF" and (found := re.search(rb"pixi\0{4}(.)", head, re.DOTALL)):
        return max(head[found.end() : found.end() + found[1][0]], default=8)
    return 8


def _deep_png(content: bytes, picture: Any) -> np.ndarray:
    """Decode a PNG file of 16 bits: Pillow would cut colour to 8."""
    import imagecodecs

    values = imagecodecs.png_decode(content)
    values = values[..., None] if values.ndim == 2 else values
    clear = picture.info.get("transparency")  # one colour that is not shown
    if clear is not None and values.shape[-1] in (1, 3):
        shown = (values != np.asarray(clear, np.uint16)).any(axis=-1, keepdims=True)
        values = np.concatenate([values, np.where(shown, 65535, 0).astype(np.uint16)], axis=-1)
    return _as_rgba(values)


def _deep_tiff(file: BinaryIO, path: Path, notes: list[str] | None = None) -> np.ndarray:
    """Decode a TIFF file of 16 bits, upright and in sRGB."""
    import tifffile
    from PIL import Image

    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page: Any = tiff.pages[0]
        if len(tiff.pages) > 1:
            raise _RefusedError(f"{path} holds {len(tiff.pages)} frames or pages, expected one image: split it first")
        colours = {0: 1, 1: 1, 2: 3}.get(int(page.photometric), 0)
        further = page.samplesperpixel - colours
        if page.bitspersample != 16 or page.sampleformat != 1 or not colours:
            raise _RefusedError(
                f"{path} has pixels of {page.bitspersample} bits ({page.photometric.name.lower()}, sample format "
                f"{page.sampleformat}), expected unsigned ones of 8 or 16 in grey or RGB: convert it"
            )
        if further not in (0, 1) or (further and int((page.extrasamples or (0,))[0]) not in (1, 2)):
            raise _RefusedError(f"{path} has a channel besides colour that is not opacity: remove it first")
        if page.imagewidth * page.imagelength > 2 * (Image.MAX_IMAGE_PIXELS or np.inf):
            raise Image.DecompressionBombError(f"{page.imagewidth}×{page.imagelength} pixels")
        values = page.asarray()
        values = np.moveaxis(values, 0, -1) if int(page.planarconfig) == 2 and page.samplesperpixel > 1 else values
        values = values.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
        if int(page.photometric) == 0:  # white is zero
            values = np.concatenate([65535 - values[..., :1], values[..., 1:]], axis=-1)
        if further and int(page.extrasamples[0]) == 1:  # colour is multiplied by opacity
            opacity = values[..., -1:].astype(np.float64)
            straight = np.rint(values[..., :-1] * (65535 / np.maximum(opacity, 1))).clip(0, 65535)
            values = np.concatenate([straight.astype(np.uint16), values[..., -1:]], axis=-1)
        profile = page.tags.get(PROFILE)
        turned = UPRIGHT.get(page.tags.valueof(ORIENTATION, 1), np.asarray)
    notes = [] if notes is None else notes
    return _in_srgb(turned(_as_rgba(values)), None if profile is None else bytes(profile.value), notes)


def _as_rgba(values: np.ndarray) -> np.ndarray:
    """Return grey with opacity as RGB with opacity."""
    return values[..., [0, 0, 0, 1]] if values.shape[-1] == 2 else values


def _in_srgb(values: np.ndarray, profile: bytes | None, notes: list[str], *, grey: bool = False) -> np.ndarray:
    """Convert colours from their profile to sRGB; opacity stays."""
    if not profile:
        return np.ascontiguousarray(values)
    import imagecodecs
    from PIL import ImageCms

    cmyk = None
    try:
        known = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = known.profile.xcolor_space.strip()
        cmyk = values if space == "CMYK" else None
        if "srgb" in ImageCms.getProfileDescription(known).lower() and space == "RGB":
            return np.ascontiguousarray(values)
        count = {"GRAY": 1, "RGB": 3, "CMYK": 4}[space]
        grey = grey or values.shape[-1] == 1
        if (space == "GRAY") != grey:
            raise ValueError(f"it is for {space}")
        names = {1: "gray", 3: "rgb", 4: "cmyk"}
        given = np.ascontiguousarray(values[..., 0] if count == 1 else values[..., :count])
        srgb = imagecodecs.cms_profile("srgb")
        spaces: dict[str, Any] = {"colorspace": names[count], "outcolorspace": "rgb"}
        # What is "optimised" is interpolated between few points: 16 bits would be off by up to 17 of 255 levels.
        colour = imagecodecs.cms_transform(given, profile, srgb, flags=imagecodecs.CMS.FLAGS.NOOPTIMIZE, **spaces)
        colour = colour[..., :1] if values.shape[-1] == 1 else colour
        rest = values[..., 3:] if cmyk is None else values[..., 4:]
        return np.ascontiguousarray(np.concatenate([colour, rest], axis=-1))
    except Exception as error:
        notes.append(f"has a colour profile that cannot be used ({error}), and is taken for sRGB")
    return np.ascontiguousarray(values)


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
        return _encode_tiff(values, about)
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


def _encode_tiff(values: np.ndarray, about: About) -> bytes:
    import tifffile

    content, channels = io.BytesIO(), values.shape[2] if values.ndim == 3 else 1
    options: dict[str, Any] = {"resolution": about.density, "resolutionunit": "INCH"} if about.density else {}
    options |= {"extratags": [(XMP, 1, len(about.xmp), about.xmp, True)]} if about.xmp else {}
    options |= {"extrasamples": ["unassalpha"]} if channels in (2, 4) else {}
    options |= {"planarconfig": "contig"} if channels > 1 else {}
    photometric = "rgb" if channels > 2 else "minisblack"
    tifffile.imwrite(content, values, photometric=photometric, metadata=None, software=False, **options)
    return content.getvalue()


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
