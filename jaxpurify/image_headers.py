"""What the headers of image files say and decoders hide: depth, signs, what a channel is, and colour spaces."""

import os
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

# What a JPEG 2000 file may state of its colours by number: bilevel, CMYK, sRGB, grey and sYCC.
KNOWN_COLOURS = (0, 12, 15, 16, 17, 18)
PSD_CHANNELS = {1: (1,), 2: (1,), 3: (3, 4), 4: (4,), 8: (1,)}  # by the kind of colours
SIGNATURES = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")
XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")


class RefusedError(ValueError):
    """What was read is understood, and cannot be taken."""


class Header(NamedTuple):
    """What a file says of its channels and colours."""

    depths: tuple[int, ...] = (8,)  # bits of each channel
    signed: bool = False
    opacity: str = "straight"  # or "multiplied" with colour, or "other": a channel that is neither colour nor opacity
    profile: bytes | None = None  # of colours, where the decoder does not say it
    codes: tuple[int, int] | None = None  # primaries and transfer function, by the numbers of ITU-T H.273
    unknown: str = ""  # what is said of colours and not understood
    xmp: bytes | None = None  # where the decoder does not say it
    further: tuple[str, ...] = ()  # what else there is besides pixels, that is not read
    notes: tuple[str, ...] = ()  # sentences about pixels that are not read

    @property
    def bits(self) -> int:
        return max(self.depths)


def read_header(file: BinaryIO, picture: Any) -> Header:
    """Read what Pillow does not say, or hides where it cuts pixels to 8 bits.

    Args:
        file: the file.
        picture: Pillow's image of it.

    Returns:
        What the header says; of formats that have 8 bits alone, nothing.

    Raises:
        RefusedError: if the depth is nowhere to be found.
    """
    kind, size = picture.format, file.seek(0, os.SEEK_END)
    head = _bytes(file, 0, 256)
    if kind == "PNG":
        return _png(file, size)
    if kind == "TIFF":
        return Header(tuple(picture.tag_v2.get(258, (1,))))
    if kind == "SGI":
        return Header((8 * head[3],))
    if kind == "PPM" and isinstance(arguments := picture.tile[0][3], tuple) and len(arguments) == 2:
        return Header((int(arguments[1]).bit_length(),))
    if kind == "PPM" and picture.tile[0][0] == "raw":
        _check_alone(file, size, picture)
    if kind == "JPEG2000":
        return _jpeg_2000(file, size)
    if kind == "AVIF":
        return _avif(file, size)
    if kind == "BMP":
        return _bmp(file, head, picture)
    if kind == "PSD":
        channels, mode = struct.unpack(">H", head[12:14])[0], struct.unpack(">H", head[24:26])[0]
        if mode not in PSD_CHANNELS:
            raise RefusedError(f"has colours of Photoshop's kind {mode}, expected grey, RGB or CMYK: convert it to RGB")
        return Header(opacity="straight" if channels in PSD_CHANNELS[mode] else "other")
    if kind == "QOI":
        return Header(codes=(1, 8 if head[13] == 1 else 13))
    if kind == "DDS" and "BC6" in str(picture.tile):
        return Header((16,))
    return Header()


def _bytes(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(max(end - start, 0))


def _png(file: BinaryIO, size: int) -> Header:
    place, depth, codes = 8, 8, None
    while place + 8 <= size:
        length, kind = struct.unpack(">I4s", _bytes(file, place, place + 8))
        if kind == b"IHDR":
            depth = _bytes(file, place + 16, place + 17)[0]
        if kind == b"cICP" and length == 4 and codes is None:
            codes = tuple(_bytes(file, place + 8, place + 10))
        if kind == b"IDAT":
            break
        place += 12 + length
    return Header((depth,), codes=codes)  # type: ignore[arg-type]


def boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Walk the boxes of an ISO base media or JPEG 2000 file.

    Args:
        file: the file.
        start: where the first box begins.
        end: where the last one ends.

    Yields:
        Kind, and where the content begins and ends. What is no box ends the walk.
    """
    while start + 8 <= end:
        length, kind = struct.unpack(">I4s", _bytes(file, start, start + 8))
        inner = start + 8
        if length == 1 and start + 16 <= end:
            length, inner = struct.unpack(">Q", _bytes(file, inner, inner + 8))[0], inner + 8
        length = end - start if length == 0 else length
        if length < inner - start:
            return
        yield kind, inner, min(start + length, end)
        start += length


def _jpeg_2000(file: BinaryIO, size: int) -> Header:
    if _bytes(file, 0, 2) == b"\xff\x4f":
        return _codestream(file, 0)
    found, palette, colour, uuids = None, None, None, list[bytes]()
    said: dict[str, Any] = {"further": ()}
    for kind, start, end in boxes(file, 0, size):
        if kind == b"jp2c" and found is None:
            found = _codestream(file, start)
        if kind in (b"xml ", b"uuid"):
            uuids.append(_bytes(file, start, end) if kind == b"uuid" else b"")
        for inner, first, last in boxes(file, start, end) if kind == b"jp2h" else ():
            content = _bytes(file, first, last)
            if inner == b"colr" and colour is None and content[0] in (1, 2, 3):
                colour = content
            if inner == b"pclr":
                palette = content
            if inner == b"cdef":
                kinds = {struct.unpack(">H", content[i + 2 : i + 4])[0] for i in range(2, len(content) - 5, 6)}
                said["opacity"] = "multiplied" if 2 in kinds else "other" if kinds - {0, 1} else "straight"
    if found is None:
        raise RefusedError("holds no JPEG 2000 codestream")
    if colour and colour[0] == 1 and (number := struct.unpack(">I", colour[3:7])[0]) not in KNOWN_COLOURS:
        said["unknown"] = f"JPEG 2000's colour space {number}"
    if colour and colour[0] > 1:
        said["profile"] = colour[3:]
    if palette:
        depths = tuple(each % 128 + 1 for each in palette[3 : 3 + palette[2]])
        if found.depths != (8,) or max(depths, default=8) > 8:
            raise RefusedError("has a palette of other than 8 bits: convert it to RGB")
    if xmp := next((each[16:] for each in uuids if each[:16] == XMP_UUID), None):
        said["xmp"] = xmp
    if any(each[:16] != XMP_UUID for each in uuids):
        said["further"] = ("its XML and UUID boxes",)
    return found._replace(**said)


def _codestream(file: BinaryIO, start: int) -> Header:
    head = _bytes(file, start, start + 42)
    if len(head) < 42 or head[:4] != b"\xff\x4f\xff\x51":
        raise RefusedError("holds no JPEG 2000 codestream: is it truncated?")
    channels = _bytes(file, start + 42, start + 42 + 3 * struct.unpack(">H", head[40:])[0])[::3]
    return Header(tuple(each % 128 + 1 for each in channels) or (8,), any(each >= 128 for each in channels))


def _avif(file: BinaryIO, size: int) -> Header:
    """Read the depth and the colours of the picture that is shown; of others, such as gain maps, where it says none."""
    properties, links, shown = list[tuple[bytes, bytes]](), dict[int, list[int]](), None
    for kind, start, end in boxes(file, 0, size):
        for inner, first, last in boxes(file, start + 4, end) if kind == b"meta" else ():
            if inner == b"pitm":
                content = _bytes(file, first, last)
                shown = struct.unpack(">H" if content[0] == 0 else ">I", content[4 : 6 if content[0] == 0 else 8])[0]
            for name, begin, until in boxes(file, first, last) if inner == b"iprp" else ():
                if name == b"ipco":
                    properties += [(each, _bytes(file, *place)) for each, *place in boxes(file, begin, until)]
                if name == b"ipma":
                    links |= _links(_bytes(file, begin, until))
    own = [properties[i - 1] for i in links.get(shown or 0, []) if 0 < i <= len(properties)]
    depths = _avif_depths(own) or _avif_depths(properties)
    if not depths:
        raise RefusedError("does not say how deep its pixels are: convert it to PNG")
    nclx = next((content for kind, content in own if kind == b"colr" and content[:4] == b"nclx"), None)
    return Header(depths, codes=None if nclx is None else struct.unpack(">HH", nclx[4:8]))


def _avif_depths(properties: list[tuple[bytes, bytes]]) -> tuple[int, ...]:
    found = list[int]()
    for kind, content in properties:
        if kind == b"pixi":
            found += content[5 : 5 + content[4]]
        if kind == b"av1C":
            found.append(12 if content[2] & 32 else 10 if content[2] & 64 else 8)
    return tuple(found)


def _links(content: bytes) -> dict[int, list[int]]:
    """Read which properties an item of an ISO base media file has."""
    wide, large = content[0] > 0, content[3] & 1
    count, place, found = struct.unpack(">I", content[4:8])[0], 8, dict[int, list[int]]()
    for _ in range(count):
        item = struct.unpack(">I" if wide else ">H", content[place : place + (4 if wide else 2)])[0]
        place += 4 if wide else 2
        number, place = content[place], place + 1
        step = 2 if large else 1
        given = [int.from_bytes(content[place + i * step : place + (i + 1) * step], "big") for i in range(number)]
        found[item] = [each & (0x7FFF if large else 0x7F) for each in given]
        place += number * step
    return found


def _check_alone(file: BinaryIO, size: int, picture: Any) -> None:
    """Refuse a file of the PPM family in which further pictures follow."""
    width, height = picture.size
    row = -(-width // 8) if picture.mode == "1" else width * len(picture.getbands())
    end = picture.tile[0][2] + row * height
    if picture.mode in ("1", "L", "RGB") and _bytes(file, end, min(size, end + 2)) in SIGNATURES:
        raise RefusedError("holds several images, expected one: split it first")


def _bmp(file: BinaryIO, head: bytes, picture: Any) -> Header:
    size, depth = struct.unpack("<I", head[14:18])[0], struct.unpack("<H", head[28:30])[0]
    said = dict[str, Any]()
    if size >= 40 and depth in (16, 32):
        method = struct.unpack("<I", head[30:34])[0]
        opacity = struct.unpack("<I", head[66:70])[0] if size >= 56 and method in (3, 6) else 0
        if opacity and picture.mode != "RGBA":
            raise RefusedError(
                f"has opacity of {opacity.bit_count()} bits a pixel, which is not read: convert it to PNG"
            )
        if depth == 32 and method == 0:
            place = struct.unpack("<I", head[10:14])[0]
            fourth = _bytes(file, place, place + 4 * picture.width * picture.height)[3::4]
            if len(set(fourth)) > 1:
                said["notes"] = ("has a fourth byte in each pixel, to which BMP gives no meaning: it is left out",)
    return _bmp_colours(file, head, size)._replace(**said)


def _bmp_colours(file: BinaryIO, head: bytes, size: int) -> Header:
    space = head[70:74][::-1] if size >= 108 else b""
    if space == b"MBED" and size >= 124:
        offset, length = struct.unpack("<II", head[126:134])
        return Header(profile=_bytes(file, 14 + offset, 14 + offset + length))
    if space == b"LINK":
        return Header(unknown="a colour profile in another file")
    if space == bytes(4) and any(head[74:110]) and any(head[110:122]):
        return Header(unknown="primaries of its own")
    return Header()
