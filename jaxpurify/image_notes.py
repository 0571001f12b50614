"""What image files say besides their pixels: notes of cameras and of editors, texts, pixels an inch."""

import re
from typing import Any, NamedTuple

ORIENTATION, EXIF_IFD, GPS_IFD, XMP = 274, 34665, 34853, 700
XMP_KEYWORD = "XML:com.adobe.xmp"  # of a PNG file
# What describes a picture, and not how its pixels lie in the file.
DESCRIBING = (270, 271, 272, 305, 306, 315, 33432)
# Colour space, width, height and interoperability: of the file that was read.
STALE = (40961, 40962, 40963, 40965)


class About(NamedTuple):
    """What an image file says besides its pixels."""

    exif: bytes | None = None  # the camera's notes without the orientation
    xmp: bytes | None = None  # what editors note, with the orientation that is upright
    texts: dict[str, str] = {}  # noqa: RUF012 (of a tuple, never changed): by keyword; a JPEG's is "Comment"
    density: tuple[float, float] | None = None  # pixels an inch


NOTHING = About()


def read_about(picture: Any) -> About:
    """Read what is to be kept besides the pixels.

    Args:
        picture: Pillow's image.

    Returns:
        What it says, as of a picture that is upright.
    """
    return About(_exif(picture), _xmp(picture), _texts(picture), _density(picture))


def _density(picture: Any) -> tuple[float, float] | None:
    """Return pixels an inch where a file says so sensibly."""
    try:
        across, down = (float(each) for each in picture.info["dpi"])
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return (across, down) if min(across, down) >= 1 and max(across, down) <= 1e6 else None


def _exif(picture: Any) -> bytes | None:
    """Return the camera's notes without what concerns the file that they are in."""
    from PIL import Image

    try:
        found, kept = picture.getexif(), Image.Exif()
        for tag in DESCRIBING:
            if tag in found:
                kept[tag] = found[tag]
        for folder in (EXIF_IFD, GPS_IFD):
            inner = {tag: value for tag, value in found.get_ifd(folder).items() if tag not in STALE}
            if inner:
                kept.get_ifd(folder).update(inner)
                kept[folder] = inner
        return kept.tobytes() if len(kept) else None
    except Exception:  # damaged notes; the pixels are what matters
        return None


def _xmp(picture: Any) -> bytes | None:
    """Return what editors noted, as of an upright picture."""
    tags = getattr(picture, "tag_v2", {})
    found = picture.info.get("xmp") or picture.info.get(XMP_KEYWORD) or tags.get(XMP)
    found = found.encode() if isinstance(found, str) else found
    if not isinstance(found, bytes) or not found.strip(b"\0"):
        return None
    return re.sub(rb"""(tiff:Orientation\s*(?:=\s*["']|>\s*))[1-8]""", rb"\g<1>1", found)


def _texts(picture: Any) -> dict[str, str]:
    """Return a PNG file's texts by keyword, or a JPEG's or GIF's comment."""
    if picture.format == "PNG":
        return {key: str(value) for key, value in picture.text.items() if key != XMP_KEYWORD}
    # What a JPEG 2000 file says is by its encoder.
    comment = picture.info.get("comment", b"") if picture.format in ("JPEG", "MPO", "GIF") else b""
    comment = comment.decode("utf-8", "replace") if isinstance(comment, bytes) else str(comment)
    return {"Comment": comment} if comment else {}
