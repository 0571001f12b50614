"""What image files say besides their pixels: notes of cameras and of editors, texts, pixels an inch."""

import re
from types import SimpleNamespace
from typing import Any, BinaryIO, NamedTuple

from jaxpurify.image_headers import Header

ORIENTATION, EXIF_IFD, GPS_IFD, XMP = 274, 34665, 34853, 700
NEWS = "the notes of news desks (IPTC)"
XMP_KEYWORD = "XML:com.adobe.xmp"  # of a PNG file
UPRIGHT = {  # by orientation
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: image.swapaxes(0, 1)[::-1],
}
# What describes a picture, and not how its pixels lie in the file: the last ones are Windows' title, comment, author,
# keywords and subject.
DESCRIBING = (269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, 40091, 40092, 40093, 40094, 40095)
# What is of the file that was read, or is kept elsewhere: layout, density, colours, further pictures and folders.
LAYOUT = frozenset(
    (*range(254, 269), *range(273, 285), *range(286, 305), *range(317, 348), *range(512, 533), *range(559, 561), XMP)
) | {ORIENTATION, EXIF_IFD, GPS_IFD, 34675, 40965, 59932}
IPTC, PHOTOSHOP = 33723, 34377
# Colour space, width, height and interoperability: of the file that was read.
STALE = (40961, 40962, 40963, 40965)


class About(NamedTuple):
    """What an image file says besides its pixels."""

    exif: bytes | None = None  # the camera's notes without the orientation
    xmp: bytes | None = None  # what editors note, with the orientation that is upright
    texts: dict[str, str] = {}  # noqa: RUF012 (of a tuple, never changed): by keyword; a JPEG's is "Comment"
    density: tuple[float, float] | None = None  # pixels an inch
    left_out: tuple[str, ...] = ()  # what else there is and is not kept, in words


NOTHING = About()


def read_about(picture: Any, header: Header) -> About:
    """Read what is to be kept besides the pixels.

    Args:
        picture: Pillow's image.
        header: what its file says besides.

    Returns:
        What it says, as of a picture that is upright.
    """
    exif, left_out = _exif(picture)
    resources = picture.info.get("photoshop")
    if isinstance(resources, dict) and resources.get(1028):
        left_out.append(NEWS)
    return About(exif, _xmp(picture, header), _texts(picture), _density(picture), (*left_out, *header.further))


def read_tiff_notes(file: BinaryIO) -> About:
    """Read what is to be kept of a TIFF file that Pillow does not open.

    Args:
        file: the file.

    Returns:
        What it says, as of a picture that is upright.
    """
    from PIL import Image

    notes, tags = Image.Exif(), dict[int, Any]()
    try:
        file.seek(0)
        notes.load_from_fp(file)
        tags = dict(notes)
        unit = {2: 1.0, 3: 2.54}[tags.get(296, 2)]
        info = {"dpi": (tags[282] * unit, tags[283] * unit)}
    except Exception:  # damaged notes or none; the pixels are what matters
        info = {}
    return read_about(SimpleNamespace(format="TIFF", info=info, tag_v2=tags, getexif=lambda: notes), Header())


def _density(picture: Any) -> tuple[float, float] | None:
    """Return pixels an inch where a file says so sensibly."""
    try:
        across, down = (float(each) for each in picture.info["dpi"])
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    if _orientation(picture) >= 5:  # turned by a quarter
        across, down = down, across
    return (across, down) if min(across, down) >= 1 and max(across, down) <= 1e6 else None


def _orientation(picture: Any) -> int:
    try:
        found = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged notes
        return 1
    return found if found in UPRIGHT else 1


def _exif(picture: Any) -> tuple[bytes | None, list[str]]:
    """Return the camera's notes without what concerns the file that they are in, and what is not kept of them."""
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
        others = sorted(set(found) - LAYOUT - set(DESCRIBING))
        left_out = [NEWS] if {IPTC, PHOTOSHOP} & set(others) else []
        numbers = [str(tag) for tag in others if tag not in (IPTC, PHOTOSHOP)]
        left_out += [f"its tags {', '.join(numbers)}"] if numbers else []
        return kept.tobytes() if len(kept) else None, left_out
    except Exception:  # damaged notes; the pixels are what matters
        return None, []


def _xmp(picture: Any, header: Header) -> bytes | None:
    """Return what editors noted, as of an upright picture."""
    tags = getattr(picture, "tag_v2", {})
    found = picture.info.get("xmp") or picture.info.get(XMP_KEYWORD) or tags.get(XMP) or header.xmp
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
