"""``jaxpurify gallery``."""

import numpy as np
from PIL import Image


def test_it_draws_all_and_each(cli, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)).save(tmp_path / "photo.png")
    code, out, err = cli(
        "gallery", "--output", "drawn", "--photograph", "photo.png", "--purifier", "b=bit-depth:bits=2"
    )
    assert (code, err) == (0, "")
    assert "2 pictures" in out
    for name in ("gallery.png", "b.png"):
        with Image.open(tmp_path / "drawn" / name) as picture:
            assert min(picture.size) > 200


def test_a_missing_photograph_is_named(refused):
    assert "no.png does not exist" in refused("gallery", "--output", "drawn", "--photograph", "no.png")


def test_opacity_is_left_out(cli, tmp_path):
    blue = np.zeros((24, 20, 4), np.uint8)
    blue[..., 2:] = 255
    Image.fromarray(blue).save(tmp_path / "blue.png")
    cli("gallery", "--output", "drawn", "--photograph", "blue.png", "--purifier", "none")
    with Image.open(tmp_path / "drawn/gallery.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (pixels == [0, 0, 255]).all(axis=1).mean() > 0.1
