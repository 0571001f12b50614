"""Files are written whole or not at all."""

import pytest

from jaxpurify import files


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match=r"cannot write .*weights\.safetensors: No space left"):
        files.write_whole(path, lambda file: file.write(b"new"))
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("weights.safetensors", b"old")]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cannot write .*absent/weights\.safetensors"):
        files.write_whole(tmp_path / "absent" / "weights.safetensors", lambda file: file.write(b"new"))
