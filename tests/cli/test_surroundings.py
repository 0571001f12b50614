"""What the command does where people, disks and terminals are not as expected: one sentence, and no traceback."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxpurify as jp
from jaxpurify import cli as command
from jaxpurify.cli import main, signals, start

UNDECODABLE = os.fsdecode(b"b\xff\xfe.png")


def shell(line, folder, **environment):
    return subprocess.run(
        ["bash", "-c", line.replace("jaxpurify", f"{sys.executable} -m jaxpurify")],
        capture_output=True,
        timeout=120,
        env=os.environ | {"COLUMNS": "100", "JAX_NUM_CPU_DEVICES": "1"} | environment,
        cwd=folder,
        check=False,
    )


def image(path):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), 77, np.uint8)).save(path)


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("locale", [{}, pytest.param(ASCII, marks=pytest.mark.slow)])
def test_names_that_are_no_text_are_printed_in_any_locale(tmp_path, locale):
    for name in ("a.png", UNDECODABLE, "new\nline.png", "é.png"):
        image(tmp_path / "in" / name)
    (tmp_path / "in" / os.fsdecode(b"t\xff.txt")).write_text("left out")
    done = shell("jaxpurify purify in out --purifier none --no-cache", tmp_path, **locale)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == 1
    assert b"t\\udcff.txt" in done.stdout
    assert sorted(os.listdir(tmp_path / "out")) == sorted(
        [".jaxpurify.json", "a.png", UNDECODABLE, "new\nline.png", "é.png"]
    )


@pytest.mark.parametrize("name", [UNDECODABLE, "new\nline.png", "tab\t\x1b[31m.png"])
def test_a_message_about_any_name_is_one_printable_line(cli, name):
    code, out, err = cli("purify", name, "clean.png", "--purifier", "none")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err[:-1].isprintable()


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-", pytest.param("2>&-", marks=pytest.mark.slow)])
def test_closed_output_is_no_error_and_nothing_is_lost(tmp_path, closed):
    image(tmp_path / "a.png")
    done = shell(f"jaxpurify purify a.png b.png --purifier none --no-cache {closed}", tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    np.testing.assert_array_equal(jp.images.read(tmp_path / "b.png"), 77)


def test_streams_that_are_none_are_opened(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main(["--version"]) == 0
    assert main(["nothing"]) == 2
    for name in ("stdout", "stderr"):
        getattr(sys, name).close()


def test_a_full_disk_behind_the_output_and_a_closed_pipe_behind_both(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    full = shell("jaxpurify --help > /dev/full", tmp_path)
    assert (full.returncode, full.stderr) == (2, b"jaxpurify: no space left on device\n")
    line = "(jaxpurify nothing; echo $? > code) 2>&1 | true"
    assert shell(line, tmp_path).stderr == b""
    assert (tmp_path / "code").read_text() == "2\n"


def interrupted_after(folder, seconds):
    script = folder / "jaxpurify"
    script.write_text("import sys\nfrom jaxpurify.cli import main\nsys.exit(main())\n")
    shutil.rmtree(folder / "run", ignore_errors=True)
    running = subprocess.Popen(
        [sys.executable, script, "evaluate", "--no-cache", "--run", folder / "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
    )
    time.sleep(seconds)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    return running.returncode, err


@pytest.mark.parametrize("seconds", [0.7, 1.1, pytest.param(2.5, marks=pytest.mark.slow)])
def test_an_interruption_while_it_starts_is_one_sentence(tmp_path, seconds):
    code, err = interrupted_after(tmp_path, seconds)
    assert code == 130
    assert err.startswith(b"jaxpurify: interrupted")
    assert err.count(b"\n") == 1


def test_an_interruption_that_something_swallowed_comes_again(cli, monkeypatch):
    class Swallows:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def work(*_):
        before = time.monotonic()
        Swallows()
        while time.monotonic() < before + 10:
            time.sleep(0.01)
        return 0

    monkeypatch.setattr(command, "_parsed", work)
    assert cli("convert") == (130, "", "jaxpurify: interrupted: nothing was written\n")
    monkeypatch.setattr(
        command, "_parsed", lambda *_: exec("raise RuntimeError('CpuCallback error: KeyboardInterrupt: ')")
    )
    assert cli("evaluate").code == 130


def test_importing_the_library_guards_nothing():
    assert not signals._is_command()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


FAULTS = [
    (MemoryError(), "there is not enough memory"),
    (MemoryError("jpeg finds too little memory for an image of 9×9 pixels"), "jpeg finds too little memory"),
    (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 18400000000 bytes."), "enough memory for 18.4 GB"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to"), "not enough memory"),
    (RuntimeError("std::bad_alloc"), "not enough memory"),
    (PermissionError(13, "Permission denied", "a/b.npz"), "a/b.npz: permission denied"),
    (PermissionError(13, "Permission denied", b"a/\xff.npz"), "a/\\udcff.npz: permission denied"),
]


@pytest.mark.parametrize("name", command.COMMANDS)
def test_too_little_memory_and_permissions_are_one_sentence_in_every_command(cli, monkeypatch, name):
    for error, said in FAULTS:

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(command, "_parsed", fail)
        code, out, err = cli("train", "blind-spot") if name == "train" else cli(name)
        assert (code, out) == (2, "")
        assert said in err
        assert err.count("\n") == 1


def test_other_faults_of_ours_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(command, "_parsed", lambda *_: next(iter([])))
    with pytest.raises(StopIteration):
        main(["list"])


@pytest.fixture
def kept(tmp_path):
    """JAX's cache of compiled programs in a folder of the test."""
    import jax
    from jax._src import compilation_cache

    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "kept"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()
    yield tmp_path / "kept"
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])
    compilation_cache.reset_cache()


@pytest.mark.parametrize("size", [0, 50, -1])
def test_a_cut_entry_of_the_cache_is_written_anew_without_a_word(cli, monkeypatch, kept, size):
    import jax

    def compile_it(*_):
        jax.clear_caches()
        jax.jit(lambda x: x * 3 + 1, inline=True)(np.ones(3, np.float32)).block_until_ready()
        return 0

    monkeypatch.setattr(command, "_parsed", compile_it)
    assert cli("list") == (0, "", "")
    entries = {file: file.read_bytes() for file in kept.glob("*-cache")}
    assert entries
    for file, content in entries.items():
        file.write_bytes(content[:size])
    for _ in range(2):
        assert cli("list") == (0, "", "")
        assert all(file.stat().st_size > len(content) / 2 for file, content in entries.items())


def test_a_cache_that_cannot_be_written_is_told_once(kept, monkeypatch):
    monkeypatch.setattr(start, "_SAID", [])
    kept.mkdir()
    (kept / "jit_f-0a-cache").write_bytes(b"cut")
    (kept / "jit_g-0a-cache").write_bytes(b"cut")
    told = "Error writing persistent compilation cache entry for 'jit_f': OSError: [Errno 28] No space left on device"
    assert start.of_cache(told).startswith(f"compiled programs cannot be kept in {kept} (OSError: [Errno 28]")
    assert [file.name for file in kept.iterdir()] == ["jit_g-0a-cache"]
    assert start.of_cache(told) == ""
    assert start.of_cache("another warning") == "another warning"


def test_what_may_not_be_read_is_named_as_such(tmp_path, cli):
    (tmp_path / "a.pth").write_bytes(b"weights")
    (tmp_path / "a.pth").chmod(0)
    with contextlib.suppress(PermissionError):
        (tmp_path / "a.pth").read_bytes()
        pytest.skip("this user may read everything")
    assert cli("convert", "a.pth", "b.safetensors").err == "jaxpurify: a.pth: permission denied\n"


ADVICE = {
    "5 channels": (np.zeros((9, 12, 5), np.float32), "take those that are colour", "grey?"),
    "5 channels of a batch": (np.zeros((2, 9, 12, 5), np.float32), "take those that are colour", "grey?"),
    "grey batch": (np.zeros((7, 28, 28), np.float32), "grey?", "channels?"),
    "NaN in one image": (np.full((3, 4, 3), np.nan, np.float32), "in 36 of its values, first in row 0", "image 0"),
}


@pytest.mark.parametrize("case", ADVICE)
def test_advice_fits_what_came(case):
    images, said, unsaid = ADVICE[case]
    with pytest.raises((TypeError, ValueError)) as raised:
        jp.purify(jp.purifiers.Identity(), images)
    assert said in str(raised.value)
    assert unsaid not in str(raised.value)


@pytest.mark.parametrize(
    ("dtype", "said"), [(np.uint16, "divide by 65535"), (np.int64, "divide by 255"), (bool, "a mask?")]
)
def test_advice_on_dtypes_does_not_change_levels(dtype, said):
    with pytest.raises(TypeError, match=said):
        jp.images.check_images(np.ones((1, 4, 4, 3), dtype))


def test_a_field_given_twice_is_refused(refused):
    assert "bit-depth was given bits twice" in refused("purify", "a", "b", "--purifier", "bit-depth:bits=3,bits=8")
