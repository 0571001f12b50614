"""What image files say besides their pixels is kept, or a warning says that it is not."""

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from jaxpurify import image_files

tifffile = pytest.importorskip("tifffile")
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
DESCRIBED = {
    270: "a title",
    269: "a document",
    316: "a machine",
    18246: 4,
    18249: 75,
    40091: "Größe".encode("utf-16-le") + b"\0\0",
    40094: "sea;sky".encode("utf-16-le") + b"\0\0",
}


def written(kind, **options):
    content = io.BytesIO()
    Image.fromarray(PIXELS).save(content, kind, **options)
    return content.getvalue()


def silently(path, read):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image_files.save(path, read.pixels, about=read.about)
    return image_files.load(path)


@pytest.mark.parametrize("before", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_titles_and_ratings_are_kept(tmp_path, before):
    exif = Image.Exif()
    for tag, value in DESCRIBED.items():
        exif[tag] = value
    (tmp_path / "a").write_bytes(written(before, exif=exif))
    read = image_files.load(tmp_path / "a")
    for ending in ("jpg", "png", "webp", "tif"):
        silently(tmp_path / f"b.{ending}", read)
        with Image.open(tmp_path / f"b.{ending}") as again:
            found = again.getexif()
            assert {tag: found.get(tag) for tag in DESCRIBED} == DESCRIBED


def resources(*blocks):
    found = b"".join(b"8BIM" + struct.pack(">HHI", number, 0, len(content)) + content for number, content in blocks)
    found = b"Photoshop 3.0\0" + found
    return b"\xff\xed" + struct.pack(">H", len(found) + 2) + found


def test_the_notes_of_news_desks_are_said_to_be_left_out(tmp_path):
    plain, notes = written("JPEG"), b"\x1c\x02\x05\0\4Wave"
    (tmp_path / "a.jpg").write_bytes(plain[:2] + resources((1028, notes)) + plain[2:])
    (tmp_path / "a.tif").write_bytes(written("TIFF", tiffinfo={33723: notes}))
    for name in ("a.jpg", "a.tif"):
        read = image_files.load(tmp_path / name)
        with pytest.warns(UserWarning, match=r"b\.png is written without the notes of news desks \(IPTC\)$"):
            image_files.save(tmp_path / "b.png", read.pixels, about=read.about)
    (tmp_path / "c.jpg").write_bytes(plain[:2] + resources((1005, bytes(16))) + plain[2:])  # the density alone
    silently(tmp_path / "b.png", image_files.load(tmp_path / "c.jpg"))


def test_tags_that_are_not_kept_are_said_by_number(tmp_path):
    (tmp_path / "a.tif").write_bytes(written("TIFF", tiffinfo={42113: "-9999", 65000: "mine"}))
    read = image_files.load(tmp_path / "a.tif")
    with pytest.warns(UserWarning, match=r"b\.tif is written without its tags 42113, 65000$"):
        image_files.save(tmp_path / "b.tif", read.pixels, about=read.about)
    for kind in ("TIFF", "JPEG", "PNG"):
        (tmp_path / "c").write_bytes(written(kind, dpi=(300, 200)))
        silently(tmp_path / "b.tif", image_files.load(tmp_path / "c"))


@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "PNG"])
def test_pixels_an_inch_are_turned_with_the_picture(tmp_path, kind):
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "a").write_bytes(written(kind, exif=exif, dpi=(300, 150)))
    assert image_files.load(tmp_path / "a").about.density == pytest.approx((150, 300), abs=0.02)


def box(kind, content):
    return struct.pack(">I", len(content) + 8) + kind + content


def test_boxes_of_jpeg_2000_are_kept_or_said(tmp_path):
    plain = written("JPEG2000", irreversible=False)
    place = plain.index(b"jp2c") - 4
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    marked = box(b"uuid", bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + xmp)
    (tmp_path / "a.jp2").write_bytes(plain[:place] + marked + plain[place:])
    read = image_files.load(tmp_path / "a.jp2")
    assert (read.about.xmp, read.about.left_out) == (xmp, ())
    (tmp_path / "b.jp2").write_bytes(plain[:place] + box(b"xml ", b"<a/>") + plain[place:])
    read = image_files.load(tmp_path / "b.jp2")
    with pytest.warns(UserWarning, match=r"b\.png is written without its XML and UUID boxes$"):
        image_files.save(tmp_path / "b.png", read.pixels, about=read.about)
    (tmp_path / "c.jp2").write_bytes(plain)
    silently(tmp_path / "c.png", image_files.load(tmp_path / "c.jp2"))


def test_tiff_files_that_pillow_does_not_open_keep_their_notes(tmp_path):
    content = io.BytesIO()
    white = np.concatenate([PIXELS[..., :1], PIXELS[..., 1:2]], axis=-1)
    options = {"photometric": "miniswhite", "planarconfig": "contig", "extrasamples": ["unassalpha"]}
    tags = [(700, 1, 4, b"<x/>", True), (316, 2, 0, "a machine", True)]
    tifffile.imwrite(content, white, metadata=None, description="a title", resolution=(100, 50), resolutionunit="INCH",
                     extratags=tags, software=False, **options)  # fmt: skip
    (tmp_path / "a.tif").write_bytes(content.getvalue())
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(tmp_path / "a.tif")
    read = image_files.load(tmp_path / "a.tif")
    assert (read.about.xmp, read.about.density, read.about.left_out) == (b"<x/>", (100, 50), ())
    notes = Image.Exif()
    notes.load(read.about.exif)
    assert (notes[270], notes[316]) == ("a title", "a machine")
