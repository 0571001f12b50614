"""The command, called in this process."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from jaxpurify.cli import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path, lenient) -> Callable[..., Outcome]:
    """Run the command in an empty folder, without a cache on disk; return its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object) -> Outcome:
        cached = arguments[0] in ("evaluate", "purify", "attack") and "--help" not in arguments
        code = main([*map(str, arguments), *(["--no-cache"] if cached else [])])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(cli, tmp_path) -> Callable[..., str]:
    """Run the command on bad input: exit code 2, one sentence on standard error, and no file that was not there."""

    def run(*arguments: object) -> str:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        code, out, err = cli(*arguments)
        assert code == 2, (out, err)
        assert err.startswith("jaxpurify: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        assert "unforeseen" not in err
        assert out == ""
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return err

    return run


@pytest.fixture
def photo(tmp_path) -> Callable[..., np.ndarray]:
    """Write a random image file in the folder, and return its pixels."""

    def write(name: str, height: int = 9, width: int = 12, channels: int = 3) -> np.ndarray:
        random = np.random.default_rng(sum(name.encode()))
        pixels = random.integers(0, 256, (height, width, channels), np.uint8)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels).save(tmp_path / name)
        return pixels

    return write
