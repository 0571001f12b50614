"""Files are written whole or not at all."""

import errno
import json
import os

import pytest

from jaxpurify import files


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match=r"No space left on device: .*weights\.safetensors") as caught:
        files.write_whole(path, lambda file: file.write(b"new"))
    assert (caught.value.errno, caught.value.strerror) == (errno.ENOSPC, "No space left on device")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("weights.safetensors", b"old")]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file .*absent/weights\.safetensors"):
        files.write_whole(tmp_path / "absent" / "weights.safetensors", lambda file: file.write(b"new"))


def test_what_a_link_points_to_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to("deep/file")
    for content in (b"first", b"second"):  # to where nothing is, and to a file
        files.write_whole(tmp_path / "link", lambda file, content=content: file.write(content))
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "deep/file").read_bytes() == content
    assert os.listdir(tmp_path / "deep") == ["file"]


def test_links_in_a_circle_folders_and_devices_are_no_place_for_a_file(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for path, number in ((tmp_path / "a", errno.ELOOP), (tmp_path, errno.EISDIR), ("/dev/full", errno.ENOSPC)):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            files.write_whole(path, lambda file: file.write(b"new"))
        assert caught.value.errno == number
    files.write_whole("/dev/null", lambda file: file.write(b"new"))
    assert not os.path.isfile("/dev/null")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_permissions_of_what_is_replaced_stay(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o640)
    files.write_whole(path, lambda file: file.write(b"new"))
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", [b"a" * 255, b"b\xff\xfe.png", "\u00e9.png".encode(), b"two\nlines"])
def test_every_name_that_the_system_takes_can_be_written(tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    files.write_whole(path, lambda file: file.write(b"new"))
    assert os.listdir(os.fsencode(tmp_path)) == [name]
    text = files.printable(os.fsdecode(path))
    assert text.encode()
    assert text.splitlines() == [text]


def test_json_holds_names_that_are_no_text(tmp_path):
    files.write_json(tmp_path / "a.json", {"name": os.fsdecode(b"b\xff\xc3\xa9")})
    read = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert os.fsencode(read["name"]) == b"b\xff\xc3\xa9"


def test_one_file_is_known_by_all_its_names(tmp_path):
    (tmp_path / "deep").mkdir()
    source = tmp_path / "a"
    source.write_bytes(b"precious")
    (tmp_path / "soft").symlink_to("a")
    os.link(source, tmp_path / "hard")
    for name in ("a", "soft", "hard", "deep/../a"):
        with pytest.raises(ValueError, match="is the same file as the source"):
            files.check_apart(tmp_path / name, [tmp_path / "other", source])
    (tmp_path / "other").write_bytes(b"precious")
    for name in ("other", "absent"):
        files.check_apart(tmp_path / name, [source])
