"""Files of any name are purified, and none is overwritten by what is made of it."""

import os

import numpy as np
import pytest
from PIL import Image

from jaxpurify.cli import main

NAMES = (
    b"a.png",
    b"b\xff\xfe.png",
    b"two\nlines.png",
    "\u00e9\u4e2d.png".encode(),
    b"l" * 251 + b".png",
    b" 'x' [%].png",
)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
NONE = ("--purifier", "none", "--no-cache", "--quiet")


def picture(path, value=None):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        Image.fromarray(PIXELS if value is None else np.full_like(PIXELS, value)).save(file, "PNG")


@pytest.mark.usefixtures("lenient")
def test_a_folder_of_odd_names_is_purified_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        picture(os.path.join(b"in", name))
    with open(b"in/no image \xff.txt", "wb"):
        pass
    assert main(["purify", "in", "out", *NONE]) == 0
    assert sorted(name for name in os.listdir(b"out") if not name.startswith(b".")) == sorted(NAMES)
    out, err = capsys.readouterr()
    assert (out.encode().count(b"\n"), err) == (1, "")
    for name in NAMES:
        with open(os.path.join(b"out", name), "rb") as file:
            np.testing.assert_array_equal(np.asarray(Image.open(file)), PIXELS)


@pytest.mark.usefixtures("lenient")
def test_a_single_file_of_an_odd_name_is_purified(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    picture(b"./b\xff.png")
    assert main(["purify", os.fsdecode(b"b\xff.png"), os.fsdecode(b"c\xfe.png"), *NONE]) == 0
    assert capsys.readouterr().out == "purified b\\udcff.png into c\\udcfe.png\n"
    assert os.path.exists(b"c\xfe.png")


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("target", ["a.png", "./a.png", "sub/../a.png", "soft.png", "hard.png", "."])
def test_a_source_is_not_overwritten(tmp_path, monkeypatch, capsys, target):
    monkeypatch.chdir(tmp_path)
    picture("./a.png")
    os.mkdir("sub")
    os.symlink("a.png", "soft.png")
    os.link("a.png", "hard.png")
    with open("a.png", "rb") as file:
        before = file.read()
    for options in ((), ("--overwrite",)):
        assert main(["purify", "a.png", target, *NONE, *options]) == 2
        assert "same file" in capsys.readouterr().err or not options
    with open("a.png", "rb") as file:
        assert file.read() == before
    assert os.path.islink("soft.png")


@pytest.mark.usefixtures("lenient")
def test_no_image_of_a_source_folder_is_overwritten_through_links(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    picture("in/a.png", 1)
    picture("in/deep/b.png", 2)
    os.mkdir("out")
    os.symlink("../in/deep", "out/deep")  # a folder
    assert main(["purify", "in", "out", *NONE, "--overwrite"]) == 2
    assert "by a link" in capsys.readouterr().err
    os.remove("out/deep")
    os.symlink("../in/deep/b.png", "out/a.png")  # another image than its own
    assert main(["purify", "in", "out", *NONE, "--overwrite"]) == 2
    assert np.asarray(Image.open("in/deep/b.png")).max() == 2


@pytest.mark.usefixtures("lenient")
def test_a_target_that_is_a_link_is_written_through(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture("./a.png")
    picture("./kept/old.png", 3)
    os.symlink("kept/old.png", "link.png")
    assert main(["purify", "a.png", "link.png", *NONE, "--overwrite"]) == 0
    assert os.path.islink("link.png")
    np.testing.assert_array_equal(np.asarray(Image.open("kept/old.png")), PIXELS)
