"""``jaxpurify purify``."""

import shutil

import numpy as np
import pytest
from PIL import Image

from jaxpurify.purifiers import GaussianSmoothing
from jaxpurify.purifiers.apply import purify

SPEC = ("--purifier", "gaussian-smoothing:sigma=1,iterations=2")
SMOOTH = GaussianSmoothing(sigma=1.0, iterations=2)


def pixels(path):
    return np.asarray(Image.open(path))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_file_becomes_what_the_library_makes_of_it(cli, photo, tmp_path):
    image = photo("a.png")
    assert cli("purify", "a.png", "b.png", *SPEC) == (0, "purified a.png into b.png\n", "")
    np.testing.assert_array_equal(pixels(tmp_path / "b.png"), purify(SMOOTH, image))


def test_opacity_and_grey_are_kept(cli, photo, tmp_path):
    image, grey = photo("a.png", channels=4), photo("grey.png", channels=1)
    cli("purify", "a.png", "b.png", *SPEC)
    np.testing.assert_array_equal(pixels(tmp_path / "b.png"), purify(SMOOTH, image))
    cli("purify", "grey.png", "c.png", *SPEC)
    np.testing.assert_array_equal(pixels(tmp_path / "c.png"), purify(SMOOTH, grey[..., 0]))


def test_a_folder_keeps_its_names_and_skips_what_is_no_image(cli, photo, tmp_path):
    images = {name: photo(f"in/{name}") for name in ("a.png", "deep/er/b.png", "deep/c.PNG")}
    photo("in/d.png", 5, 31)
    (tmp_path / "in/notes.txt").write_text("not an image")
    (tmp_path / "in/.hidden.png").write_text("nobody looks at this")
    code, out, err = cli("purify", "in", "out", *SPEC)
    assert (code, err) == (0, "")
    assert out == "purified 4 images of in into out; left out what is no image: notes.txt\n"
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("[!.]*.*"))
    assert written == sorted([*images, "d.png"])
    for name, image in images.items():
        np.testing.assert_array_equal(pixels(tmp_path / "out" / name), purify(SMOOTH, image))


def test_the_same_command_goes_on_where_it_stopped(cli, photo, tmp_path):
    for name in ("a.png", "b.png"):
        photo(f"in/{name}")
    cli("purify", "in", "out", *SPEC)
    (tmp_path / "out/b.png").unlink()
    (tmp_path / "out/a.png").write_text("left alone")
    assert cli("purify", "in", "out", *SPEC).out == "purified 1 images of in into out, 1 were there already\n"
    assert (tmp_path / "out/a.png").read_text() == "left alone"
    assert cli("purify", "in", "out", *SPEC, "--overwrite").out == "purified 2 images of in into out\n"
    assert pixels(tmp_path / "out/a.png").shape == (9, 12, 3)


def test_one_bad_file_is_named_and_the_others_are_purified(cli, photo, tmp_path):
    photo("in/a.png")
    photo("in/c.png")
    (tmp_path / "in/b.png").write_bytes((tmp_path / "in/a.png").read_bytes()[:60])
    code, out, err = cli("purify", "in", "out", *SPEC)
    assert code == 2
    assert out == "purified 2 images of in into out\n"
    assert err.startswith("jaxpurify: in/b.png cannot be read as an image")
    assert err.count("\n") == 1
    assert names_in(tmp_path / "out") == ["a.png", "c.png"]


def test_a_photograph_is_turned_upright(cli, tmp_path):
    picture = Image.fromarray(np.zeros((6, 10, 3), np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "a.jpg", exif=exif)
    cli("purify", "a.jpg", "b.png", "--purifier", "none")
    assert pixels(tmp_path / "b.png").shape == (10, 6, 3)


def test_a_file_into_a_folder_keeps_its_name(cli, photo, tmp_path):
    photo("a.png")
    (tmp_path / "out").mkdir()
    assert cli("purify", "a.png", "out", "--purifier", "none").code == 0
    assert (tmp_path / "out/a.png").exists()


def test_missing_and_truncated_files_are_refused(refused, photo, tmp_path):
    photo("a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:60])
    assert "truncated" in refused("purify", "a.png", "b.png", *SPEC)
    assert "does not exist" in refused("purify", "absent.png", "b.png", *SPEC)
    (tmp_path / "text.png").write_text("not an image")
    assert "not an image" in refused("purify", "text.png", "b.png", *SPEC)


def test_unknown_purifiers_and_values_are_refused(refused, photo):
    photo("a.png")
    for spec, words in [
        ("smoothing", "unknown purifier 'smoothing', expected one of"),
        ("gaussian-smoothing:radius=1", "does not understand 'radius=1'"),
        ("gaussian-smoothing:sigma=wide", "expected a number"),
        ("gaussian-smoothing:sigma=-1", "sigma"),
        ("bit-depth:bits=0", "bits must be from 1 to 8"),
        ("none+", "unknown purifier ''"),
    ]:
        assert words in refused("purify", "a.png", "b.png", "--purifier", spec)


def test_existing_files_are_not_overwritten(refused, photo, tmp_path):
    photo("a.png")
    (tmp_path / "b.png").write_text("precious")
    assert "--overwrite" in refused("purify", "a.png", "b.png", *SPEC)
    assert (tmp_path / "b.png").read_text() == "precious"


def test_places_that_cannot_be_written_are_refused(refused, photo, tmp_path):
    photo("a.png")
    photo("in/a.png")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("purify", "a.png", "file/b.png", *SPEC)
    assert "is a file, expected a folder" in refused("purify", "in", "file", *SPEC)
    assert "choose a folder outside" in refused("purify", "in", "in/out", *SPEC)
    assert "no ending of an image format" in refused("purify", "a.png", "b.picture", *SPEC)


def test_a_folder_without_images_is_refused(refused, tmp_path):
    (tmp_path / "in").mkdir()
    assert "holds no images" in refused("purify", "in", "out", *SPEC)


def test_what_an_image_becomes_does_not_depend_on_its_company(cli, photo, tmp_path, monkeypatch):
    for name in ("a.png", "b.png", "c.png"):
        photo(f"in/{name}")
    cli("purify", "in", "together", *SPEC)
    shutil.copytree(tmp_path / "in", tmp_path / "alone")
    for name in ("a.png", "b.png"):
        (tmp_path / "alone" / name).unlink()
    cli("purify", "alone", "one", *SPEC)
    np.testing.assert_array_equal(pixels(tmp_path / "together/c.png"), pixels(tmp_path / "one/c.png"))


@pytest.mark.parametrize("pixels_at_a_time", [1, 150])
def test_memory_is_bounded(cli, photo, tmp_path, monkeypatch, pixels_at_a_time):
    from jaxpurify.cli import purify as module

    monkeypatch.setattr(module, "PIXELS", pixels_at_a_time)
    for number in range(3):
        photo(f"in/{number}.png")
    assert cli("purify", "in", "out", "--purifier", "none").code == 0
    assert len(names_in(tmp_path / "out")) == 3


def test_an_image_that_the_purifier_cannot_take_does_not_stop_the_others(cli, photo, tmp_path):
    for name, size in (("a.png", (31, 45)), ("b.png", (2, 2)), ("c.png", (16, 16))):
        photo(f"in/{name}", *size)
    code, out, err = cli("purify", "in", "out", "--purifier", "wavelet:levels=3")
    assert code == 2
    assert "purified 2 images" in out
    assert err.startswith("jaxpurify: in/b.png: ")
    assert err.count("\n") == 1
    assert names_in(tmp_path / "out") == ["a.png", "c.png"]
