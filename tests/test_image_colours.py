"""Colours become sRGB by what a file states of them, whatever it calls them, or a warning says that they do not."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from jaxpurify import image_files

imagecodecs = pytest.importorskip("imagecodecs")
RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (6, 8, 3), np.uint8)
GREY = RGB[..., :1]
CORNERS = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
# From the specification of CSS Color 4, for linear values.
P3_TO_SRGB = np.array([[1.2249402, -0.2249402, 0.0], [-0.0420569, 1.0420569, 0.0], [-0.0196376, -0.0786361, 1.0982735]])


def encoded(linear):
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def decoded(values):
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def from_gamma(values, gamma):
    return 255 * encoded((values / 255) ** gamma)


def from_p3(values):
    return 255 * encoded(decoded(values / 255) @ P3_TO_SRGB.T)


def profile(gamma, *, name=None):
    content = imagecodecs.cms_profile(
        "rgb", whitepoint=[*CORNERS[:2], 1], primaries=[0.64, 0.33, 1, 0.30, 0.60, 1, 0.15, 0.06, 1], gamma=gamma
    )
    before = "RGB built-in".encode("utf-16-be")
    assert before in content
    return content if name is None else content.replace(before, name.ljust(12)[:12].encode("utf-16-be"))


LINEAR_BY_THE_NAME_OF_SRGB = profile(1.0, name="sRGB IEC6196")


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(image, *chunks):
    if image.dtype == np.uint16:
        content = bytes(imagecodecs.png_encode(np.ascontiguousarray(image)))
    else:
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
        content = buffer.getvalue()
    return content[:33] + b"".join(chunk(*each) for each in chunks) + content[33:]


def gamma(value):
    return b"gAMA", struct.pack(">I", round(value * 100_000))


def corners(values):
    return b"cHRM", struct.pack(">8I", *(round(each * 100_000) for each in values))


def codes(primaries, transfer):
    return b"cICP", bytes([primaries, transfer, 0, 1])


def iccp(content):
    return b"iCCP", b"a\0\0" + zlib.compress(content)


def written(image, kind, **options):
    content = io.BytesIO()
    picture = (
        image if isinstance(image, Image.Image) else Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    )
    picture.save(content, kind, **options)
    return content.getvalue()


def read(tmp_path, name, content):
    """Return pixels, and what was warned of."""
    (tmp_path / name).write_bytes(content)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        pixels = image_files.load(tmp_path / name).pixels
    said = [str(each.message) for each in found]
    assert all(each.startswith(str(tmp_path / name)) for each in said)
    return pixels, said


def jpeg_2000(content):
    """Write a JPEG 2000 file whose colours a profile states."""
    encoded = written(RGB, "JPEG2000", irreversible=False)
    place = encoded.index(b"colr") - 4
    length = struct.unpack(">I", encoded[place : place + 4])[0]
    added = struct.pack(">I4sBBB", len(content) + 11, b"colr", 2, 0, 0) + content
    header = encoded.index(b"jp2h") - 4
    whole = struct.unpack(">I", encoded[header : header + 4])[0] + len(added) - length
    changed = encoded[:place] + added + encoded[place + length :]
    return changed[:header] + struct.pack(">I", whole) + changed[header + 4 :]


def bmp(content):
    """Write a BMP file of version 5 that holds a profile."""
    rows = b"".join(row[:, ::-1].tobytes() for row in RGB[::-1])  # rows of 24 bytes
    header = struct.pack("<IiiHHIIiiII", 124, 8, 6, 1, 24, 0, len(rows), 0, 0, 0, 0) + bytes(16) + b"DEBM" + bytes(48)
    header += struct.pack("<IIII", 4, 124 + len(rows), len(content), 0)
    assert len(header) == 124
    return struct.pack("<2sIII", b"BM", 138 + len(rows) + len(content), 0, 138) + header + rows + content


def qoi(space):
    pixels = b"".join(b"\xfe" + bytes(each) for each in RGB.reshape(-1, 3))
    return b"qoif" + struct.pack(">IIBB", 8, 6, 3, space) + pixels + bytes(7) + b"\1"


DEEP = RGB.astype(np.uint16) * 257
CONVERTED = {
    "named.png": (png(RGB, iccp(LINEAR_BY_THE_NAME_OF_SRGB)), from_gamma(RGB, 1)),
    "named.tif": (written(RGB, "TIFF", icc_profile=LINEAR_BY_THE_NAME_OF_SRGB), from_gamma(RGB, 1)),
    "named.webp": (written(RGB, "WEBP", lossless=True, icc_profile=LINEAR_BY_THE_NAME_OF_SRGB), from_gamma(RGB, 1)),
    "named.jp2": (jpeg_2000(LINEAR_BY_THE_NAME_OF_SRGB), from_gamma(RGB, 1)),
    "named.bmp": (bmp(LINEAR_BY_THE_NAME_OF_SRGB), from_gamma(RGB, 1)),
    "grey.png": (png(GREY, iccp(LINEAR_BY_THE_NAME_OF_SRGB)), from_gamma(GREY, 1)),
    "linear.qoi": (qoi(1), from_gamma(RGB, 1)),
    "linear.png": (png(RGB, gamma(1)), from_gamma(RGB, 1)),
    "mac.png": (png(RGB, gamma(1 / 1.8), corners(CORNERS)), from_gamma(RGB, 1.8)),
    "linear-grey.png": (png(GREY, gamma(1)), from_gamma(GREY, 1)),
    "linear-deep.png": (png(DEEP, gamma(1)), from_gamma(RGB, 1) * 257),
    "p3.png": (png(RGB, corners(P3)), from_p3(RGB)),
    "p3-deep.png": (png(DEEP, corners(P3)), from_p3(RGB) * 257),
    "p3-codes.png": (png(RGB, codes(12, 13)), from_p3(RGB)),
    "both.png": (png(RGB, codes(12, 13), iccp(LINEAR_BY_THE_NAME_OF_SRGB)), from_p3(RGB)),
    "linear-codes.png": (png(RGB, codes(1, 8)), from_gamma(RGB, 1)),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_colours_are_converted_by_what_is_stated(tmp_path, name):
    content, expected = CONVERTED[name]
    pixels, said = read(tmp_path, name, content)
    assert said == []
    np.testing.assert_allclose(pixels.astype(int), expected, atol=1 if pixels.dtype == np.uint8 else 100)


def test_opacity_is_not_converted_with_the_colours(tmp_path):
    image = np.concatenate([RGB, GREY], axis=-1)
    pixels, _ = read(tmp_path, "a.png", png(image, gamma(1)))
    np.testing.assert_array_equal(pixels[..., 3:], GREY)
    np.testing.assert_allclose(pixels[..., :3].astype(int), from_gamma(RGB, 1), atol=1)
    grey = png(image[..., [0, 3]], gamma(1))  # kept as colour
    pixels, said = read(tmp_path, "b.png", grey)
    assert said == []
    np.testing.assert_allclose(pixels[..., :3].astype(int), from_gamma(GREY, 1) + np.zeros(3), atol=1)
    grey = png(image[..., [0, 3]], iccp(imagecodecs.cms_profile("gray", gamma=1.0)))
    pixels, said = read(tmp_path, "c.png", grey)
    assert said == []
    np.testing.assert_allclose(pixels[..., :3].astype(int), from_gamma(GREY, 1) + np.zeros(3), atol=1)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
OTHER_NAME = imagecodecs.cms_profile("srgb").replace("sRGB".encode("utf-16-be"), "qRST".encode("utf-16-be"))
KEPT = {
    "usual.png": png(RGB, gamma(0.45455), corners(CORNERS)),
    "srgb.png": png(RGB, (b"sRGB", b"\0"), gamma(1), corners(P3)),
    "codes.png": png(RGB, codes(1, 13)),
    "unsaid.png": png(RGB, codes(2, 2)),
    "profile.png": png(RGB, iccp(SRGB)),
    "other-name.png": png(RGB, iccp(OTHER_NAME)),
    "profile.jp2": jpeg_2000(SRGB),
    "profile.bmp": bmp(SRGB),
    "plain.jp2": written(RGB, "JPEG2000", irreversible=False),
    "plain.qoi": qoi(0),
    "profile.webp": written(RGB, "WEBP", lossless=True, icc_profile=SRGB),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_srgb_by_any_name_is_kept_to_the_bit(tmp_path, name):
    pixels, said = read(tmp_path, name, KEPT[name])
    assert said == []
    np.testing.assert_array_equal(pixels, RGB)


def test_grey_with_a_profile_of_srgb_needs_no_word(tmp_path):
    pixels, said = read(tmp_path, "a.png", png(GREY, iccp(SRGB)))
    assert said == []
    np.testing.assert_array_equal(pixels, GREY)


def with_tags(**tags):
    numbers = {"curve": 301, "white": 318, "corners": 319}
    return written(RGB, "TIFF", tiffinfo={numbers[name]: value for name, value in tags.items()})


SAID = {
    "damaged.png": (png(RGB, (b"iCCP", b"a\0\0nothing")), "colour profile that cannot be used (it is damaged)"),
    "hdr.png": (png(RGB, codes(9, 16)), "colours by the codes 9 and 16"),
    "zero.png": (png(RGB, gamma(0)), "colours that cannot be used (a gamma of 0.0)"),
    "corners.png": (png(RGB, corners((0,) * 8)), "colours that cannot be used"),
    "lab.png": (png(RGB, iccp(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())), "it is for Lab"),
    "white.tif": (with_tags(white=(0.3457, 0.3585)), "primaries of its own"),
    "link.bmp": (bmp(b"x").replace(b"DEBM", b"KNIL"), "a colour profile in another file"),
    "space.jp2": (
        written(RGB, "JPEG2000", irreversible=False).replace(b"colr\1\0\0\0\0\0\x10", b"colr\1\0\0\0\0\0\x15"),
        "JPEG 2000's colour space 21",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_what_is_stated_and_not_converted_is_said(tmp_path, name):
    content, words = SAID[name]
    pixels, said = read(tmp_path, name, content)
    assert len(said) == 1
    assert words in said[0]
    assert said[0].endswith("and is taken for sRGB")
    np.testing.assert_array_equal(pixels, RGB)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_the_codes_of_avif_are_read(tmp_path):
    plain = written(np.repeat(np.repeat(RGB, 8, 0), 8, 1), "AVIF", quality=100, subsampling="4:4:4")
    place = plain.index(b"nclx") + 4
    given, said = read(tmp_path, "a.avif", plain)
    assert said == []
    wide, said = read(tmp_path, "b.avif", plain[:place] + struct.pack(">HH", 12, 13) + plain[place + 4 :])
    assert said == []
    np.testing.assert_allclose(wide.astype(int), from_p3(given), atol=1)
    _, said = read(tmp_path, "c.avif", plain[:place] + struct.pack(">HH", 9, 16) + plain[place + 4 :])
    assert ["codes 9 and 16" in each for each in said] == [True]


def test_cameras_that_mark_adobe_rgb_are_believed(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(34665)[40965] = {1: "R03", 2: b"0100"}
    image = np.repeat(np.repeat(RGB // 2 + np.uint8(64), 8, 0), 8, 1)
    plain, _ = read(tmp_path, "a.jpg", written(image, "JPEG", quality=100, subsampling=0))
    marked, said = read(tmp_path, "b.jpg", written(image, "JPEG", quality=100, subsampling=0, exif=exif))
    assert said == []
    adobe = ImageCms.ImageCmsProfile(io.BytesIO(imagecodecs.cms_profile("adobergb")))
    expected = ImageCms.profileToProfile(Image.fromarray(plain), adobe, ImageCms.createProfile("sRGB"))
    np.testing.assert_allclose(marked.astype(int), np.asarray(expected), atol=1)


def test_inks_are_converted_or_said_and_never_taken_for_opacity(tmp_path):
    inks = RANDOM.integers(0, 256, (6, 8, 4), np.uint8)
    picture = Image.frombytes("CMYK", (8, 6), inks.tobytes())
    expected = (255 - inks[..., :3].astype(int)) * (255 - inks[..., 3:].astype(int)) / 255
    for name, options, words in (
        ("plain.tif", {}, "has inks (CMYK) without a colour profile"),
        ("wrong.tif", {"icc_profile": SRGB}, "it is for RGB"),
        ("damaged.tif", {"icc_profile": b"no profile"}, "cannot be used"),
    ):
        pixels, said = read(tmp_path, name, written(picture, "TIFF", **options))
        assert len(said) == 1
        assert words in said[0]
        assert said[0].endswith("converted plainly")
        assert pixels.shape == (6, 8, 3)
        np.testing.assert_allclose(pixels.astype(int), expected, atol=0.5)
    flat = Image.new("CMYK", (16, 16), (255, 0, 0, 0))  # Pillow writes what Adobe does: turned round
    pixels, _ = read(tmp_path, "a.jpg", written(flat, "JPEG", quality=100))
    np.testing.assert_allclose(pixels.astype(int), np.broadcast_to([0, 255, 255], (16, 16, 3)), atol=2)


def test_inks_are_no_opacity_where_colours_are_left_as_they_are(tmp_path):
    (tmp_path / "a.tif").write_bytes(written(Image.new("CMYK", (2, 2), (255, 0, 0, 0)), "TIFF"))
    with pytest.warns(UserWarning, match="converted plainly"):
        read = image_files.load(tmp_path / "a.tif", to_srgb=False).pixels
    np.testing.assert_array_equal(read, np.broadcast_to([0, 255, 255], (2, 2, 3)))
