"""Every PNG, TIFF, JPEG 2000 and AVIF file is read by its own depth, channels and opacity, or refused in a sentence."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from jaxpurify import image_files

imagecodecs = pytest.importorskip("imagecodecs")
tifffile = pytest.importorskip("tifffile")
RANDOM = np.random.default_rng(0)
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by PNG colour type
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))  # of Adam7
KINDS = [
    *((0, depth) for depth in (1, 2, 4, 8, 16)),
    *((3, depth) for depth in (1, 2, 4, 8)),
    *itertools.product((2, 4, 6), (8, 16)),
]


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(levels, colour, depth, *, palette=None, clear=None, interlaced=False, further=b""):
    """Write a PNG file by the specification, with neither filter nor library."""
    height, width = levels.shape[:2]

    def rows(part):
        if 0 in part.shape:
            return b""
        bits = np.unpackbits(part.reshape(len(part), -1, 1).astype(">u2").view(np.uint8), axis=-1)[..., 16 - depth :]
        return b"".join(b"\0" + np.packbits(row).tobytes() for row in bits.reshape(len(part), -1))

    parts = [levels[y::dy, x::dx] for y, x, dy, dx in PASSES] if interlaced else [levels]
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))),
            further,
            b"" if palette is None else chunk(b"PLTE", palette.astype(np.uint8).tobytes()),
            b"" if clear is None else chunk(b"tRNS", clear),
            chunk(b"IDAT", zlib.compress(b"".join(map(rows, parts)))),
            chunk(b"IEND", b""),
        )
    )


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("colour", "depth", "transparent"),
    [(*kind, clear) for kind in KINDS for clear in (False, True) if kind[0] < 4 or not clear],
)
def test_png_files_of_every_kind_are_read_as_the_specification_says(tmp_path, colour, depth, transparent, interlaced):
    levels = RANDOM.integers(0, 2**depth, (9, 11, CHANNELS[colour]))
    top, wide = 2**depth - 1, np.uint16 if depth == 16 else np.uint8
    palette = clear = None
    if colour == 3:
        palette = RANDOM.integers(0, 256, (2**depth, 3))
        opacity = RANDOM.integers(0, 256, max(2**depth - 1, 1))
        clear = opacity.astype(np.uint8).tobytes() if transparent else None
        shown = np.append(opacity, [255] * 2**depth)[levels] if transparent else levels[..., :0]
        expected = np.concatenate([palette[levels[..., 0]], shown], axis=-1)
    else:
        expected = levels * (np.iinfo(wide).max // top)
        if transparent:
            clear = levels[3, 4].astype(">u2").tobytes()
            shown = (levels != levels[3, 4]).any(axis=-1, keepdims=True) * np.iinfo(wide).max
            expected = np.concatenate([expected, shown], axis=-1)
        expected = expected[..., [0, 0, 0, 1]] if expected.shape[-1] == 2 else expected
    content = png(levels, colour, depth, palette=palette, clear=clear, interlaced=interlaced)
    (tmp_path / "a.png").write_bytes(content)
    read = image_files.load(tmp_path / "a.png").pixels
    np.testing.assert_array_equal(read, expected)
    assert read.dtype == wide


def test_a_palette_of_which_one_entry_is_clear_gives_opacity(tmp_path):
    levels, palette = RANDOM.integers(0, 4, (5, 6, 1)), RANDOM.integers(0, 256, (4, 3))
    (tmp_path / "a.png").write_bytes(png(levels, 3, 2, palette=palette, clear=b"\xff\0"))
    read = image_files.load(tmp_path / "a.png").pixels
    np.testing.assert_array_equal(read[..., :3], palette[levels[..., 0]])
    np.testing.assert_array_equal(read[..., 3], np.where(levels[..., 0] == 1, 0, 255))


def tiff(values, **options):
    content = io.BytesIO()
    tifffile.imwrite(content, values, metadata=None, **options)
    return content.getvalue()


def written(picture, kind, **options):
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


GREY, RGB, RGBA = (RANDOM.integers(0, 256, (5, 6, count), np.uint8) for count in (1, 3, 4))
OPACITY = RANDOM.integers(128, 256, (5, 6, 1), np.uint8)
TURNED = [(274, "H", 1, 6, True)]
CONTIG = {"planarconfig": "contig"}
RAMPS = 257 * np.stack([np.arange(256), np.zeros(256), 255 - np.arange(256)])
READ = {
    "opacity": (tiff(RGBA, photometric="rgb", extrasamples=["unassalpha"]), RGBA),
    "planes": (tiff(np.moveaxis(RGBA, -1, 0), photometric="rgb", planarconfig="separate", extrasamples=[2]), RGBA),
    "grey-opacity": (
        tiff(RGBA[..., [0, 3]], photometric="minisblack", **CONTIG, extrasamples=[2]), RGBA[..., [0, 0, 0, 3]],
    ),
    "white": (tiff(GREY[..., 0], photometric="miniswhite"), 255 - GREY),
    "turned": (tiff(RGB, photometric="rgb", extratags=TURNED), RGB.swapaxes(0, 1)[:, ::-1]),
    "turned-opacity": (
        tiff(RGBA, photometric="rgb", extrasamples=[2], extratags=TURNED), RGBA.swapaxes(0, 1)[:, ::-1],
    ),
    "big": (tiff(RGB, photometric="rgb", bigtiff=True, byteorder=">"), RGB),
    "strips": (tiff(RGB, photometric="rgb", rowsperstrip=2, compression="lzw", predictor=True), RGB),
    "tiles": (tiff(RGB, photometric="rgb", tile=(16, 16), compression="deflate"), RGB),
    "palette": (
        tiff(GREY[..., 0], photometric="palette", colormap=RAMPS.astype(np.uint16)),
        np.concatenate([GREY, 0 * GREY, 255 - GREY], axis=-1),
    ),
    "one-bit": (written(Image.fromarray(GREY[..., 0] > 99), "TIFF", compression="group4"), (GREY > 99) * 255),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_tiff_files_of_8_bits_are_read_by_their_tags(tmp_path, name):
    content, expected = READ[name]
    (tmp_path / "a.tif").write_bytes(content)
    np.testing.assert_array_equal(image_files.load(tmp_path / "a.tif").pixels, expected)


@pytest.mark.parametrize("colours", [1, 3])
def test_8_bit_colour_multiplied_by_opacity_is_divided_again(tmp_path, colours):
    image = np.concatenate([RGB[..., :colours], OPACITY], axis=-1)
    stored = np.rint(image * (OPACITY / 255)).astype(np.uint8)
    stored[..., -1:] = OPACITY
    photometric = "rgb" if colours == 3 else "minisblack"
    (tmp_path / "a.tif").write_bytes(tiff(stored, photometric=photometric, **CONTIG, extrasamples=["assocalpha"]))
    read = image_files.load(tmp_path / "a.tif").pixels.astype(int)
    expected = image if colours == 3 else image[..., [0, 0, 0, 1]]
    np.testing.assert_allclose(read, expected, atol=1)
    np.testing.assert_array_equal(read[..., :3], np.rint(stored[..., :-1] * (255 / OPACITY)) + np.zeros(3))


def box(kind, content):
    return struct.pack(">I", len(content) + 8) + kind + content


def with_box(content, before, added):
    place = content.index(before) - 4
    return content[:place] + added + content[place:]


def jpeg_2000(bits=8, dtype=None, **options):
    levels = RANDOM.integers(0, 2**bits, (16, 16, 3)).astype(dtype or ("uint16" if bits > 8 else "uint8"))
    return imagecodecs.jpeg2k_encode(levels, level=0, bitspersample=bits, codecformat="jp2", **options)


def avif_of(bits):
    levels = RANDOM.integers(0, 2**bits, (16, 16, 3)).astype("uint16" if bits > 8 else "uint8")
    return imagecodecs.avif_encode(levels, level=90, bitspersample=bits)


REFUSED = {
    "signed.tif": (lambda: tiff(GREY[..., 0].view(np.int8)), "sample format 2"),
    "further.tif": (lambda: tiff(RGBA, photometric="rgb", extrasamples=[0]), "not opacity"),
    "grey-further.tif": (lambda: tiff(RGBA[..., :2], photometric="minisblack", **CONTIG, extrasamples=[0]), "not op"),
    "five.tif": (
        lambda: tiff(np.concatenate([RGBA, GREY], -1), photometric="rgb", **CONTIG, extrasamples=[2, 0]),
        "not opacity",
    ),
    "lab.tif": (lambda: tiff(RGB, photometric="cielab"), "colours of TIFF's kind 8"),
    "inks.tif": (
        lambda: tiff(np.concatenate([RGBA, GREY], -1), photometric="separated", **CONTIG, extrasamples=[0]),
        "not opacity",
    ),
    "half.tif": (lambda: tiff(GREY[..., 0].astype(np.float16)), "sample format 3"),
    "uuid.jp2": (lambda: with_box(jpeg_2000(16), b"jp2h", box(b"uuid", bytes(6000))), "16 bits a channel"),
    "after.jp2": (lambda: with_box(jpeg_2000(16), b"jp2c", box(b"uuid", bytes(6000))), "16 bits a channel"),
    "twelve.jp2": (lambda: jpeg_2000(12), "12 bits a channel"),
    "signed.jp2": (lambda: jpeg_2000(8, dtype="int8"), "signed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_cut_or_dropped_is_refused(tmp_path, name):
    make, words = REFUSED[name]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(ValueError, match=rf"^{tmp_path}/{name} .*{words}"):
        image_files.load(tmp_path / name)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_jpeg_2000_of_few_bits_reaches_white(tmp_path, bits):
    levels = np.arange(256).reshape(16, 16) % 2**bits
    levels = np.stack([levels, levels.T, 0 * levels], axis=-1).astype(np.uint8)
    content = imagecodecs.jpeg2k_encode(levels, level=0, bitspersample=bits, codecformat="jp2")
    (tmp_path / "a.jp2").write_bytes(with_box(content, b"jp2h", box(b"uuid", bytes(6000))))
    expected = np.rint(levels * (255 / (2**bits - 1)))
    np.testing.assert_array_equal(image_files.load(tmp_path / "a.jp2").pixels, expected)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_the_depth_of_avif_is_found_wherever_it_stands(tmp_path):
    for bits in (8, 10, 12):
        content = avif_of(bits)
        for name, changed in (("a", content), ("b", content.replace(b"pixi", b"free"))):
            path = tmp_path / f"{name}{bits}.avif"
            path.write_bytes(with_box(changed, b"meta", b"") if bits == 8 else changed)
            if bits == 8:
                assert image_files.load(path).pixels.shape == (16, 16, 3)
            else:
                with pytest.raises(ValueError, match=f"{bits} bits a channel"):
                    image_files.load(path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
@pytest.mark.parametrize("rows", [40, 8])
def test_truncated_tiff_files_are_called_so(tmp_path, capfd, dtype, compression, rows):
    image = RANDOM.integers(0, 256, (40, 20, 3)).astype(dtype)
    whole = tiff(image, photometric="rgb", compression=compression, rowsperstrip=rows)
    for share in (0.3, 0.6, 0.9, 0.999):
        (tmp_path / "a.tif").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match=r"a\.tif .*truncated\?$"):
            image_files.load(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")


def bmp(size, depth, method, pixels, masks=()):
    """Write a BMP file of 2×2 pixels."""
    header = struct.pack("<IiiHHIIiiII", size, 2, 2, 1, depth, method, len(pixels), 0, 0, 0, 0)
    header = (header + struct.pack(f"<{len(masks)}I", *masks)).ljust(size, b"\0")
    return struct.pack("<2sIII", b"BM", 14 + len(header) + len(pixels), 0, 14 + len(header)) + header + pixels


def psd(kind, channels):
    header = struct.pack(">4sH6xHIIHH", b"8BPS", 1, channels, 2, 2, 8, kind)
    return header + bytes(14) + bytes(range(4 * channels))


BYTES = bytes(range(10, 26))
FURTHER_REFUSED = {
    "bit.bmp": (bmp(108, 16, 3, BYTES[:8], (0x7C00, 0x3E0, 0x1F, 0x8000)), "opacity of 1 bits a pixel"),
    "ten.bmp": (bmp(108, 32, 3, BYTES, (0x3FF00000, 0xFFC00, 0x3FF)), r"\(Unsupported .*\): convert it$"),
    "five.psd": (psd(3, 5), "not opacity"),
    "grey.psd": (psd(1, 2), "not opacity"),
    "inks.psd": (psd(4, 5), "not opacity"),
    "several.psd": (psd(7, 3), "Photoshop's kind 7"),
    "lab.psd": (psd(9, 3), "Photoshop's kind 9"),
    "two.ppm": (2 * (b"P6 2 1 255\n" + BYTES[:6]), "several images"),
    "two.pbm": (2 * (b"P4 9 1\n" + BYTES[:2]), "several images"),
}


@pytest.mark.parametrize("name", FURTHER_REFUSED)
def test_channels_and_pictures_that_pillow_drops_are_refused(tmp_path, name):
    content, words = FURTHER_REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/{name} .*{words}"):
        image_files.load(tmp_path / name)


FURTHER_READ = {
    "opacity.bmp": (bmp(108, 32, 3, BYTES, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)), [[20, 19, 18, 21], [12, 11, 10, 13]]),
    "filled.bmp": (bmp(40, 32, 0, b"\1\2\3\0" * 4), [[3, 2, 1], [3, 2, 1]]),
    "565.bmp": (bmp(56, 16, 3, b"\x1f\0\xff\xff\0\xf8\xe0\7", (0xF800, 0x7E0, 0x1F, 0)), [[255, 0, 0], [0, 0, 255]]),
    "rgb.psd": (psd(3, 3), [[0, 4, 8], [2, 6, 10]]),
    "rgba.psd": (psd(3, 4), [[0, 4, 8, 12], [2, 6, 10, 14]]),
    "one.ppm": (b"P6 2 2 255\n" + BYTES[:12] + b"\n", [[10, 11, 12], [16, 17, 18]]),
    "few.pgm": (b"P5 2 2 15\n" + bytes([0, 5, 10, 15]), [[0], [170]]),
}


@pytest.mark.parametrize("name", FURTHER_READ)
def test_the_first_column_of_lesser_formats_is_right(tmp_path, name):
    content, expected = FURTHER_READ[name]
    (tmp_path / name).write_bytes(content)
    np.testing.assert_array_equal(image_files.load(tmp_path / name).pixels[:, 0], expected)


def test_a_fourth_byte_of_bmp_is_said(tmp_path):
    (tmp_path / "a.bmp").write_bytes(bmp(40, 32, 0, BYTES))
    with pytest.warns(UserWarning, match=r"a\.bmp has a fourth byte in each pixel"):
        read = image_files.load(tmp_path / "a.bmp").pixels
    np.testing.assert_array_equal(read[:, 0], [[20, 19, 18], [12, 11, 10]])
