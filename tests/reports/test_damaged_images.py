"""Damaged image files are read or refused in one sentence that begins with their name."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from jaxpurify import formats, image_files

RANDOM = np.random.default_rng(0)


def whole(folder):
    """Return an ending and a file's bytes for every format, depth and number of channels, and further ones."""
    found = []
    for form in formats.FORMATS:
        for bits in form.bits:
            for channels in form.channels:
                image = RANDOM.integers(0, 2**bits, (12, 15, channels)).astype(f"uint{bits}")
                found.append((form.endings[0], image_files.encode(image, form)))
    imagecodecs = pytest.importorskip("imagecodecs")
    picture, content, moving = (
        Image.fromarray(RANDOM.integers(0, 256, (12, 15, 3), np.uint8)),
        io.BytesIO(),
        io.BytesIO(),
    )
    picture.save(content, "PNG", icc_profile=imagecodecs.cms_profile("adobergb"))
    picture.save(moving, "GIF", save_all=True, append_images=[Image.new("RGB", (15, 12))])
    return [*found, (".png", content.getvalue()), (".gif", moving.getvalue())]


def mutated(content):
    """Cut a file, or change a few of its bytes, the first few in one of three."""
    kind = RANDOM.integers(3)
    if kind == 0:
        return content[: RANDOM.integers(1, len(content))]
    changed = bytearray(content)
    for _ in range(RANDOM.integers(1, 6)):
        changed[RANDOM.integers(8 if kind == 1 else 0, len(changed))] = RANDOM.integers(256)
    return bytes(changed)


def signed(path):
    """Return whether Pillow takes a file for one of a format, by its signature and what follows at once."""
    try:
        Image.open(path).close()
    except Exception:  # whatever else a damaged header makes it raise
        return False
    return True


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused_by_name(tmp_path, capfd, monkeypatch, count):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)  # a size that was changed is not to cost seconds
    files, refused, known = whole(tmp_path), 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for number in range(count):
            ending, content = files[number % len(files)]
            path = tmp_path / f"a{ending}"
            path.write_bytes(mutated(content))
            known += signed(path)
            try:
                pixels = image_files.load(path).pixels
                assert pixels.ndim == 3
                assert pixels.shape[-1] in (1, 3, 4)
                assert pixels.dtype in (np.uint8, np.uint16)
            except ValueError as error:
                assert str(error).startswith(str(path))  # noqa: PT017
                assert "\n" not in str(error)  # noqa: PT017
                refused += 1
    assert 0.1 * count < refused < 0.9 * count
    assert known > count / 2
    assert capfd.readouterr() == ("", "")
