"""The command ``purify``: nothing is lost without a word, folders are listed by one rule, purifiers never mix."""

import io
import json

import numpy as np
import pytest
from PIL import Image

import jaxpurify as jp
from jaxpurify import formats, image_files
from jaxpurify.listing import list_images
from jaxpurify.purifiers import quilting

RANDOM = np.random.default_rng(0)
NONE = ("--purifier", "none", "--quiet")


def noise(channels=3, bits=8, size=(5, 7)):
    return RANDOM.integers(0, 2**bits, (*size, channels)).astype(f"uint{bits}")


def put(path, image=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image_files.save(path, noise() if image is None else image)


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def images_in(folder):
    return [name for name in names_in(folder) if not name.startswith(".")]


# every format through the identity


def test_every_format_is_purified_into_every_other_or_refused_before_work(cli, tmp_path):
    sources = {}
    for form in formats.FORMATS:
        for bits in form.bits:
            for channels in form.channels:
                name = f"{form.endings[0][1:]}-{channels}-{bits}{form.endings[0]}"
                put(tmp_path / "in" / name, noise(channels, bits))
                sources[name] = image_files.load(tmp_path / "in" / name).pixels
    for form in formats.FORMATS:
        ending = form.endings[0]
        code, _, err = cli("purify", "in", f"out{ending}", *NONE, "--format", ending[1:])
        refused = {line.split(" ")[1].split("/")[-1] for line in err.splitlines()}
        assert code == (2 if refused else 0)
        assert err.count("pass --format png") == len(refused)
        for name, image in sources.items():
            same = formats.BY_ENDING["." + name.split(".")[-1]] is form
            target = tmp_path / f"out{ending}" / (name if same else name[: name.rindex(".")] + ending)
            holds = image.shape[-1] in form.channels and 8 * image.dtype.itemsize in form.bits
            assert target.exists() == holds == (target.name not in refused), name
            if holds and form.exact:
                read = image_files.load(target).pixels
                expected = np.repeat(image, 3, axis=-1) if read.shape[-1] > image.shape[-1] else image
                np.testing.assert_array_equal(read, expected)


def test_a_deep_image_is_purified_as_deep_as_it_is(cli, tmp_path):
    image = noise(3, 16)
    put(tmp_path / "a.png", image)
    assert cli("purify", "a.png", "b.tif", "--purifier", "gaussian-smoothing:sigma=1").code == 0
    expected = jp.purify(jp.purifiers.GaussianSmoothing(sigma=1.0), (image / 65535).astype(np.float32))
    written = image_files.load(tmp_path / "b.tif").pixels
    assert written.dtype == np.uint16
    np.testing.assert_allclose(written / 65535, expected, atol=1 / 65535)


def test_what_the_target_cannot_hold_is_refused_before_any_work(refused, tmp_path, monkeypatch):
    put(tmp_path / "a.png", noise(4))
    put(tmp_path / "deep.png", noise(3, 16))
    put(tmp_path / "long.png", noise(3, size=(1, 16384)))

    def work(*_, **__):
        raise AssertionError("there was work")

    monkeypatch.setattr("jaxpurify.purifiers.apply.purify", work)
    for target in ("b.bmp", "b.ppm", "b.jpg", "b.pcx"):
        assert f"{target} cannot hold opacity" in refused("purify", "a.png", target, *NONE)
    assert "b.jpg cannot hold 16 bits a channel" in refused("purify", "deep.png", "b.jpg", *NONE)
    assert "b.webp cannot hold 1×16384 pixels" in refused("purify", "long.png", "b.webp", *NONE)
    for target in ("b", "b.gif", "b.txt", "b.eps"):
        assert "has no ending of an image format" in refused("purify", "a.png", target, *NONE)
    assert "unknown format 'gif'" in refused("purify", "a.png", "b.png", *NONE, "--format", "gif")
    assert "must end in .png" in refused("purify", "a.png", "b.tif", *NONE, "--format", "png")


# folders


def litter(folder):
    """Put beside images what systems, notebooks and people leave, and return what is to be found."""
    put(folder / "a.png")
    put(folder / "deep/b.jpg")
    for name in ("__MACOSX/a.png", ".thumbs/a.png", ".ipynb_checkpoints/a.png", "@eaDir/a.png", ".hidden.png"):
        put(folder / name)
    (folder / "._a.png").write_bytes(b"\0\5\x16\7")
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / "notes.txt").write_bytes(b"x")
    (folder / "gone.png").symlink_to("absent.png")
    (folder / "linked.png").symlink_to("a.png")
    (folder / "round").symlink_to(".")
    (folder / "again").symlink_to("deep")
    (folder / "folder.png").mkdir()
    put(folder / "folder.png/c.png")
    return ["a.png", "deep/b.jpg", "folder.png/c.png", "linked.png"]


def test_one_rule_says_which_files_are_images(tmp_path):
    expected = litter(tmp_path)
    found = list_images(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found.images] == expected
    assert [path.name for path in found.others] == ["notes.txt"]
    assert [sentence.split(" ")[0].split("/")[-1] for sentence in found.broken] == ["gone.png", "again", "round"]


def test_purify_takes_the_images_of_that_rule_and_says_what_it_left_out(cli, tmp_path):
    expected = litter(tmp_path / "in")
    code, out, err = cli("purify", "in", "out", *NONE)
    assert code == 2
    assert out == "purified 4 images of in into out; left out what is no image: notes.txt\n"
    assert [line.split(" ")[1] for line in err.splitlines()] == ["in/gone.png", "in/again", "in/round"]
    assert images_in(tmp_path / "out") == expected


@pytest.mark.filterwarnings("ignore:.*left out")
def test_training_and_quilting_take_the_images_of_that_rule(tmp_path):
    from jaxpurify.training.pictures import pictures

    expected = litter(tmp_path)
    assert len(pictures(tmp_path)) == len(expected)
    assert quilting.read_patches(str(tmp_path), count=8, size=2).shape == (8, 2, 2, 3)


def test_training_and_data_sets_say_what_they_left_out(tmp_path):
    from jaxpurify.training.pictures import pictures

    for name in ("cat/a.png", "dog/a.png", "beside.png", "dog/deeper/b.png"):
        put(tmp_path / name)
    (tmp_path / "dog/c.heic").touch()
    with pytest.warns(UserWarning, match=r"left out .*: beside\.png, dog/c\.heic, dog/deeper"):
        assert len(jp.datasets.load(tmp_path)) == 2
    with pytest.warns(UserWarning, match=r"left out what is no image: c\.heic"):
        assert len(pictures(tmp_path)) == 4


def test_deep_images_are_data_too(tmp_path):
    image = noise(3, 16)
    put(tmp_path / "cat/a.png", image)
    data = jp.datasets.load(tmp_path)
    np.testing.assert_allclose(data.images[0], image / 65535, atol=1e-7)


def test_a_folder_gets_one_format(cli, refused, tmp_path):
    put(tmp_path / "in/a.jpg")
    put(tmp_path / "in/b.PNG")
    content = io.BytesIO()
    Image.fromarray(noise(4)).save(content, "PNG")
    (tmp_path / "in/wrongly.jpg").write_bytes(content.getvalue())  # a PNG with opacity
    code, _, err = cli("purify", "in", "out", *NONE)
    assert code == 2
    assert err == "jaxpurify: out/wrongly.jpg cannot hold opacity (JPEG): pass --format png\n"
    code, _, err = cli("purify", "in", "all", *NONE, "--format", "png")
    assert (code, err) == (0, "")
    assert images_in(tmp_path / "all") == ["a.png", "b.PNG", "wrongly.png"]
    put(tmp_path / "in/a.png")
    assert "would both become" in refused("purify", "in", "again", *NONE, "--format", "png")


def test_formats_that_are_read_only_are_images_of_a_folder(cli, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.gif", "b.ico", "c.pbm"):
        Image.new("1" if name == "c.pbm" else "L", (16, 16)).save(tmp_path / "in" / name)
    code, _, err = cli("purify", "in", "out", *NONE)
    assert code == 2
    assert err.count("pass --format png") == 3
    assert cli("purify", "in", "out", *NONE, "--format", "png").code == 0
    assert images_in(tmp_path / "out") == ["a.png", "b.png", "c.png"]


def test_what_is_damaged_is_named_and_does_not_stop_the_rest(cli, tmp_path):
    put(tmp_path / "in/a.png")
    (tmp_path / "in/b.pgm").write_bytes(b"P5 20 20 65535\n" + bytes(80))
    (tmp_path / "in/c.pgm").write_bytes(b"P5 20 20 255\n" + bytes(80))
    (tmp_path / "out/d.png").mkdir(parents=True)
    put(tmp_path / "in/d.png")
    code, out, err = cli("purify", "in", "out", *NONE)
    assert (code, out) == (2, "purified 1 images of in into out\n")
    lines = err.splitlines()
    assert sorted(line.split(" ")[1] for line in lines) == ["in/b.pgm", "in/c.pgm", "out/d.png"]
    assert "is a folder" in err


# one purifier a folder

BITS = ("--purifier", "bit-depth:bits=1", "--quiet")


def test_two_purifiers_do_not_mix(cli, refused, tmp_path):
    for name in ("a.png", "b.png"):
        put(tmp_path / "in" / name)
    assert cli("purify", "in", "out", *BITS).code == 0
    (tmp_path / "out/b.png").unlink()
    words = refused("purify", "in", "out", *NONE)
    assert "out holds images of BitDepth(" in words
    assert "--overwrite" in words
    assert "out holds images of BitDepth(" in refused("purify", "in/b.png", "out", *NONE)
    assert "out holds images of BitDepth(" in refused("purify", "in/b.png", "out/new.png", *NONE)
    assert cli("purify", "in", "out", *BITS).out == "purified 1 images of in into out, 1 were there already\n"
    assert cli("purify", "in", "out", *NONE, "--overwrite").code == 0
    assert cli("purify", "in", "out", *NONE).out.endswith("2 were there already\n")
    assert "holds images of Identity" in refused("purify", "in", "out", *BITS)


def test_images_that_would_stay_from_another_purifier_are_not_mixed_by_overwriting(cli, refused, tmp_path):
    for name in ("a.png", "b.png"):
        put(tmp_path / "in" / name)
    cli("purify", "in", "out", *BITS)
    (tmp_path / "in/b.png").unlink()
    assert "that would stay (out/b.png)" in refused("purify", "in", "out", *NONE, "--overwrite")


def test_a_replacement_that_was_stopped_is_not_taken_for_whole(cli, refused, tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        put(tmp_path / "in" / name)
    cli("purify", "in", "out", *BITS)
    from jaxpurify.cli import purify as module

    write = module._write

    def stopped(path, *rest):
        if path.name == "b.png":
            raise KeyboardInterrupt
        write(path, *rest)

    monkeypatch.setattr(module, "_write", stopped)
    assert cli("purify", "in", "out", *NONE, "--overwrite").code == 130
    monkeypatch.setattr(module, "_write", write)
    for options in (NONE, BITS):
        assert "two purifiers" in refused("purify", "in", "out", *options)
    assert cli("purify", "in", "out", *NONE, "--overwrite").code == 0
    assert cli("purify", "in", "out", *NONE).code == 0


def test_seeds_of_random_purifiers_do_not_mix_and_others_have_none(cli, refused, tmp_path):
    put(tmp_path / "in/a.png")
    for spec, mixes in (("gaussian-noise:sigma=0.1", True), ("bit-depth", False)):
        target = spec.split(":")[0]
        assert cli("purify", "in", target, "--purifier", spec, "--seed", 1).code == 0
        if mixes:
            assert "seed 1" in refused("purify", "in", target, "--purifier", spec, "--seed", 2)
        else:
            assert cli("purify", "in", target, "--purifier", spec, "--seed", 2).code == 0


def test_images_of_nobody_knows_what_are_not_taken_for_done(cli, refused, tmp_path):
    put(tmp_path / "in/a.png")
    put(tmp_path / "out/a.png")
    assert "no record" in refused("purify", "in", "out", *NONE)
    (tmp_path / "out/.jaxpurify.json").write_text("{")
    assert "--overwrite" in refused("purify", "in", "out", *NONE)
    assert cli("purify", "in", "out", *NONE, "--overwrite").code == 0
    assert "Identity" in json.loads((tmp_path / "out/.jaxpurify.json").read_text())["purifier"]


def test_draws_that_images_share_are_refused_for_folders(cli, refused, tmp_path):
    put(tmp_path / "in/a.png", noise(size=(32, 32)))
    put(tmp_path / "in/b.png", noise(size=(32, 32)))
    spec = ("--purifier", "frequency-mask:per_image=false", "--quiet")
    assert "one file at a time" in refused("purify", "in", "out", *spec)
    assert cli("purify", "in/a.png", "a.png", *spec).code == 0


# arrays


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 2, 3), bool), r"got bool: a mask\? convert with images.astype\('float32'\)"),
        (np.zeros((2, 2, 3), np.int32), "got int32"),
        (np.zeros((2, 2, 5), np.uint8), r"got \(2, 2, 5\)"),
        (np.zeros((2, 2, 2, 3), np.uint8), r"got \(2, 2, 2, 3\)"),
        (np.zeros((0, 2, 3), np.uint8), r"got \(0, 2, 3\)"),
        (
            np.full((2, 2, 3), np.nan),
            r"be finite, got NaN or infinity in 12 of its values, first in row 0 and column 0",
        ),
        (np.full((2, 2, 3), 255.0), r"be in \[0, 1\].*divide by 255"),
        ([[0.0]], "got list"),
    ],
)
def test_arrays_are_checked_before_they_are_saved(tmp_path, array, words):
    with pytest.raises((TypeError, ValueError), match=rf"^image must .*{words}|^image must {words}"):
        jp.images.write(tmp_path / "a.png", array)
    assert not list(tmp_path.iterdir())


def test_advice_for_many_channels_does_not_add_an_axis_too_many():
    for images in (np.zeros((2, 6, 7, 5), np.uint8), [np.zeros((6, 7, 5), np.uint8)]):
        with pytest.raises(ValueError, match=r"take those that are colour, as in images\[\.\.\., :3\]$"):
            jp.purify(jp.purifiers.Identity(), images)


def test_one_image_with_nan_is_not_taken_for_a_batch_of_rows():
    image = np.zeros((6, 7, 3), np.float32)
    image[2:4, 1] = np.nan
    with pytest.raises(
        ValueError, match=r"images must be finite, got NaN or infinity in 6 of its values, first in row 2 and column 1"
    ):
        jp.purify(jp.purifiers.Identity(), image)


def test_advice_for_arrays_does_not_make_them_black_or_wrap_them():
    for array, words in ((np.ones((4, 4, 3), bool), "float32"), (noise(3, 16), "65535")):
        with pytest.raises(TypeError, match=words):
            jp.purify(jp.purifiers.Identity(), array)
