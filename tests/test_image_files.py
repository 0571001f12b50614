"""Image files come back pixel by pixel where the table of formats says so, and nothing is lost without a word."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms, features
from PIL.PngImagePlugin import PngInfo

from jaxpurify import formats, image_colours, image_files

imagecodecs = pytest.importorskip("imagecodecs")
tifffile = pytest.importorskip("tifffile")
RANDOM = np.random.default_rng(0)
HELD = [
    pytest.param(form, ending, channels, bits, id=f"{ending[1:]}-{channels}-{bits}")
    for form in formats.FORMATS
    for ending in form.endings
    for bits in form.bits
    for channels in form.channels
]


def noise(*shape, bits=8):
    return RANDOM.integers(0, 2**bits, shape).astype(f"uint{bits}")


def as_read(image, channels):
    """Grey with opacity is read as colour with opacity; some formats have no grey."""
    image = image[..., [0, 0, 0, 1]] if image.shape[-1] == 2 else image
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 and channels == 3 else image


@pytest.mark.parametrize(("form", "ending", "channels", "bits"), HELD)
@pytest.mark.parametrize("size", [(9, 13), (1, 1), (1, 40)])
def test_every_format_holds_what_the_table_says(tmp_path, form, ending, channels, bits, size):
    image = noise(*size, channels, bits=bits)
    if channels in (2, 4):
        image[0, 0, -1] = 0  # its colour is kept too
    image_files.save(tmp_path / f"a{ending}", image)
    read = image_files.load(tmp_path / f"a{ending}").pixels
    expected = as_read(image, read.shape[-1])
    assert (read.shape, read.dtype) == (expected.shape, image.dtype)
    if form.exact:
        np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("form", formats.FORMATS, ids=lambda form: form.name)
def test_what_a_format_does_not_hold_is_refused_by_name(tmp_path, form):
    path = tmp_path / f"a{form.endings[0]}"
    wrong = [(2, 2, channels) for channels in {1, 2, 3, 4} - set(form.channels)] + [
        (1, form.side + 1, form.channels[0])
    ]
    for shape in wrong:
        with pytest.raises(ValueError, match=rf"a{form.endings[0]} cannot hold .*: write a \.png"):
            image_files.save(path, np.broadcast_to(np.uint8(0), shape))
    if form.bits == (8,):
        with pytest.raises(ValueError, match="cannot hold 16 bits a channel"):
            image_files.save(path, np.zeros((2, 2, form.channels[0]), np.uint16))
    assert not list(tmp_path.iterdir())


def tiff(values, **options):
    content = io.BytesIO()
    tifffile.imwrite(content, values, metadata=None, **options)
    return content.getvalue()


DEEP, DEEP_GREY = noise(6, 8, 3, bits=16), noise(6, 8, bits=16)
OPACITY = noise(6, 8, 1, bits=16)
RGBA = np.concatenate([DEEP, OPACITY], axis=-1)
ALPHA = {"extrasamples": ["unassalpha"]}
DEEP_FILES = {
    "a.png": (imagecodecs.png_encode(DEEP), DEEP),
    "grey.png": (imagecodecs.png_encode(DEEP_GREY), DEEP_GREY[..., None]),
    "rgba.png": (imagecodecs.png_encode(RGBA), RGBA),
    "grey-opacity.png": (imagecodecs.png_encode(RGBA[..., [0, 3]].copy("C")), RGBA[..., [0, 0, 0, 3]]),
    "a.tif": (tiff(DEEP, photometric="rgb"), DEEP),
    "lzw.tif": (tiff(DEEP, photometric="rgb", compression="lzw", predictor=True), DEEP),
    "big.tif": (tiff(DEEP, photometric="rgb", byteorder=">", bigtiff=True), DEEP),
    "grey.tif": (tiff(DEEP_GREY, photometric="minisblack"), DEEP_GREY[..., None]),
    "white.tif": (tiff(DEEP_GREY, photometric="miniswhite"), 65535 - DEEP_GREY[..., None]),
    "planes.tif": (tiff(np.moveaxis(DEEP, -1, 0), photometric="rgb", planarconfig="separate"), DEEP),
    "rgba.tif": (tiff(RGBA, photometric="rgb", **ALPHA), RGBA),
    "grey-opacity.tif": (
        tiff(RGBA[..., [0, 3]], photometric="minisblack", planarconfig="contig", **ALPHA), RGBA[..., [0, 0, 0, 3]],
    ),
    "turned.tif": (tiff(DEEP, photometric="rgb", extratags=[(274, "H", 1, 6, True)]), DEEP.swapaxes(0, 1)[:, ::-1]),
}  # fmt: skip


@pytest.mark.parametrize("name", DEEP_FILES)
def test_16_bits_are_read_as_16_bits(tmp_path, name):
    content, expected = DEEP_FILES[name]
    (tmp_path / name).write_bytes(content)
    read = image_files.load(tmp_path / name).pixels
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, expected)


def test_one_colour_that_a_deep_png_does_not_show_is_opacity(tmp_path):
    content = imagecodecs.png_encode(DEEP)
    key = image_files._chunk(b"tRNS", DEEP[2, 3].astype(">u2").tobytes())
    (tmp_path / "a.png").write_bytes(content[:33] + key + content[33:])
    read = image_files.load(tmp_path / "a.png").pixels
    np.testing.assert_array_equal(read[..., :3], DEEP)
    assert [read[2, 3, 3], read[0, 0, 3]] == [0, 65535]


def premultiplied(image):
    return np.rint(image * (image[..., -1:] / 65535)).astype(np.uint16)


def test_colour_multiplied_by_opacity_is_divided_again(tmp_path):
    image = np.concatenate([DEEP, OPACITY | 0x8000], axis=-1)
    stored = np.concatenate([premultiplied(image)[..., :3], image[..., 3:]], axis=-1)
    (tmp_path / "a.tif").write_bytes(tiff(stored, photometric="rgb", extrasamples=["assocalpha"]))
    np.testing.assert_allclose(image_files.load(tmp_path / "a.tif").pixels.astype(int), image, atol=1)


def several(kind, **options):
    content = io.BytesIO()
    pages = [Image.fromarray(noise(8, 8, 3)) for _ in range(3)]
    pages[0].save(content, kind, save_all=True, append_images=pages[1:], **options)
    return content.getvalue()


def jpeg_2000(bits):
    return imagecodecs.jpeg2k_encode(noise(16, 16, 3, bits=bits), level=0)


REFUSED = {
    "pages.tif": (lambda: several("TIFF"), "3 frames or pages"),
    "moving.gif": (lambda: several("GIF"), "3 frames or pages"),
    "moving.png": (lambda: several("PNG"), "3 frames or pages"),
    "moving.webp": (lambda: several("WEBP", lossless=True), "3 frames or pages"),
    "deep-pages.tif": (lambda: tiff(noise(2, 6, 8, 3, bits=16), photometric="rgb"), "2 frames or pages"),
    "a.ppm": (lambda: b"P6 2 2 65535\n" + bytes(24), "16 bits a channel"),
    "a.pgm": (lambda: b"P5 2 2 65535\n" + bytes(8), "convert it"),
    "a.sgi": (lambda: b"\x01\xda\0\2\0\3\0\2\0\2\0\3" + bytes(500) + bytes(24), "16 bits a channel"),
    "a.jp2": (lambda: jpeg_2000(16), "16 bits a channel"),
    "float.tif": (lambda: tiff(np.zeros((4, 4), np.float32)), "convert it"),
    "signed.tif": (lambda: tiff(np.zeros((4, 4, 3), np.int16), photometric="rgb"), "convert it"),
    "deeper.tif": (lambda: tiff(np.zeros((4, 4, 3), np.uint32), photometric="rgb"), "convert it"),
    "channels.tif": (
        lambda: tiff(np.zeros((4, 4, 5), np.uint16), photometric="rgb", planarconfig="contig"),
        "not opacity",
    ),
    "cut.pgm": (lambda: b"P5 20 20 255\n" + bytes(8), "truncated"),
    "text.png": (lambda: image_files.encode(noise(4, 4, 3, bits=16), formats.BY_ENDING[".png"])[:-30], "truncated"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_lost_or_is_damaged_is_refused_naming_the_file(tmp_path, name):
    make, words = REFUSED[name]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(ValueError, match=rf"^{tmp_path}/{name} .*{words}"):
        image_files.load(tmp_path / name)


def test_further_pictures_of_a_burst_are_said(tmp_path):
    (tmp_path / "a.jpg").write_bytes(several("MPO"))
    with pytest.warns(UserWarning, match=r"a\.jpg holds 3 pictures, of which the first is read"):
        assert image_files.load(tmp_path / "a.jpg").pixels.shape == (8, 8, 3)


def test_what_the_system_refuses_is_named_as_such(tmp_path, monkeypatch):
    import os

    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("absent")
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "a.png").touch()
    for name, words in (
        ("pipe.png", "no ordinary file"),
        ("link.png", "is a link to what does not exist"),
        ("circle.png", "cannot be read: Too many levels"),
        ("a.png/b.png", "cannot be read: Not a directory"),
    ):
        with pytest.raises(ValueError, match=rf"{name} .*{words}|{name} {words}"):
            image_files.load(tmp_path / name)

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(ValueError, match=r"a\.png cannot be read: Permission denied$"):
        image_files.load(tmp_path / "a.png")


WIDE = imagecodecs.cms_profile("adobergb")
PLAIN = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_colours_are_converted_to_srgb(tmp_path, ending, channels):
    image = noise(6, 8, channels) // 2 + np.uint8(64)  # within sRGB
    pillow = ImageCms.profileToProfile(
        Image.fromarray(image[..., :3]), ImageCms.ImageCmsProfile(io.BytesIO(WIDE)), ImageCms.createProfile("sRGB")
    )
    Image.fromarray(image).save(tmp_path / f"a.{ending}", icc_profile=WIDE)
    read = image_files.load(tmp_path / f"a.{ending}").pixels
    np.testing.assert_allclose(read[..., :3].astype(int), np.asarray(pillow), atol=1)
    np.testing.assert_array_equal(read[..., 3:], image[..., 3:])
    deep = image_colours.to_srgb(image.astype(np.uint16) * 257, WIDE, [])
    np.testing.assert_allclose(deep / 257, read, atol=1)
    Image.fromarray(image).save(tmp_path / f"b.{ending}", icc_profile=PLAIN)
    np.testing.assert_array_equal(image_files.load(tmp_path / f"b.{ending}").pixels, image)


@pytest.mark.parametrize("profile", [b"no profile", imagecodecs.cms_profile("gray", gamma=1.8)])
def test_a_profile_that_does_not_fit_is_said(tmp_path, profile):
    image = noise(6, 8, 3)
    Image.fromarray(image).save(tmp_path / "a.png", icc_profile=profile)
    with pytest.warns(UserWarning, match=r"a\.png has a colour profile that cannot be used"):
        np.testing.assert_array_equal(image_files.load(tmp_path / "a.png").pixels, image)


@pytest.mark.parametrize("before", ["jpg", "png", "webp", "tif"])
def test_the_cameras_notes_are_kept_but_the_orientation(tmp_path, before):
    exif = Image.Exif()
    exif[274], exif[271], exif[306] = 6, "Maker", "2020:01:01 00:00:00"
    exif.get_ifd(34665)[33434] = 0.01
    source = exif.tobytes()
    Image.fromarray(noise(6, 8, 3)).save(tmp_path / f"a.{before}", exif=source, dpi=(300, 300))
    read = image_files.load(tmp_path / f"a.{before}")
    assert read.pixels.shape == (8, 6, 3)
    for after in ("jpg", "png", "webp", "tif"):
        image_files.save(tmp_path / f"b.{after}", read.pixels, about=read.about)
        with Image.open(tmp_path / f"b.{after}") as written:
            found = written.getexif()
            assert (found[271], found[306], found.get(274, 1)) == ("Maker", "2020:01:01 00:00:00", 1)
            assert found.get_ifd(34665)[33434] == pytest.approx(0.01)
            if read.about.density and after != "webp":
                assert written.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    image_files.save(tmp_path / "c.png", read.pixels.astype(np.uint16), about=read.about)
    again = image_files.load(tmp_path / "c.png")
    assert (again.about.exif, again.pixels.dtype) == (read.about.exif, np.uint16)
    with pytest.warns(UserWarning, match=r"c\.bmp cannot hold the camera's notes"):
        image_files.save(tmp_path / "c.bmp", read.pixels, about=read.about)


XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" %s xmp:Rating="4"/>
</rdf:RDF></x:xmpmeta>"""


def save_with_xmp(path, image, xmp):
    """Save as Pillow does, each format in its own way."""
    if path.suffix == ".png":
        texts = PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", xmp.decode())
        return Image.fromarray(image).save(path, pnginfo=texts)
    if path.suffix == ".tif":
        return Image.fromarray(image).save(path, tiffinfo={700: xmp})
    return Image.fromarray(image).save(path, xmp=xmp)


@pytest.mark.parametrize("before", ["jpg", "png", "webp", "tif", "avif"])
def test_the_editors_notes_are_kept_with_an_upright_orientation(tmp_path, before):
    if before == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    source = tmp_path / f"a.{before}"
    save_with_xmp(source, noise(6, 8, 3), XMP % b'tiff:Orientation="6"')
    read = image_files.load(source)
    assert read.about.xmp.strip(b"\0") == XMP % b'tiff:Orientation="1"'
    for after in ("jpg", "png", "webp", "tif") + ("avif",) * features.check("avif"):
        target = tmp_path / f"b.{after}"
        image_files.save(target, read.pixels, about=read.about)
        with Image.open(target) as written:
            found = written.info.get("xmp") or written.info["XML:com.adobe.xmp"].encode()
        assert found.strip(b"\0") == XMP % b'tiff:Orientation="1"'
    for after in ("png", "tif"):
        image_files.save(tmp_path / f"c.{after}", read.pixels.astype(np.uint16), about=read.about)
        assert image_files.load(tmp_path / f"c.{after}").about.xmp == read.about.xmp
    with pytest.warns(UserWarning, match=r"c\.bmp cannot hold the editor's notes \(XMP\), which are left out"):
        image_files.save(tmp_path / "c.bmp", read.pixels, about=read.about)


@pytest.mark.parametrize("bits", [8, 16])
def test_texts_are_kept_where_the_format_holds_them(tmp_path, bits):
    texts, image = PngInfo(), noise(6, 8, 3)
    texts.add_text("parameters", "a photograph, steps: 20")
    texts.add_itxt("Title", "Größe")
    texts.add_text("Comment", "late", zip=True)
    Image.fromarray(image).save(tmp_path / "a.png", pnginfo=texts)
    read = image_files.load(tmp_path / "a.png")
    said = {"parameters": "a photograph, steps: 20", "Title": "Größe", "Comment": "late"}
    assert read.about.texts == said
    image_files.save(tmp_path / "b.png", image.astype(f"uint{bits}"), about=read.about)
    with Image.open(tmp_path / "b.png") as written:
        written.load()
        assert written.text == said
    with pytest.warns(UserWarning, match=r"b\.jpg cannot hold its texts, which are left out"):
        image_files.save(tmp_path / "b.jpg", image, about=read.about)
    with Image.open(tmp_path / "b.jpg") as written:
        assert written.info["comment"] == b"late"
    again = image_files.load(tmp_path / "b.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image_files.save(tmp_path / "c.jpg", image, about=again.about)
        image_files.save(tmp_path / "c.png", image, about=again.about)
    assert image_files.load(tmp_path / "c.png").about.texts == {"Comment": "late"}


def test_what_pillow_warns_of_is_not_repeated_without_the_file(tmp_path):
    content = io.BytesIO()
    Image.fromarray(noise(6, 8, 3)).save(content, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    (tmp_path / "a.jpg").write_bytes(content.getvalue())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image_files.load(tmp_path / "a.jpg")
