"""On a full disk nothing cut is left under its final name, and the next call does what is missing."""

import contextlib
import errno
import resource
import signal

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import jaxpurify as jp
from jaxpurify.cli import main
from jaxpurify.networks import weights

NOISE = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)


@contextlib.contextmanager
def files_of_at_most(size):
    """Let no file grow beyond a size: the write that would is short, and the next one fails."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def listed(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif", "bmp", "ppm"])
def test_images(tmp_path, capsys, ending):
    for name, pixels in (("large", NOISE), ("small", NOISE[:4, :4])):
        (tmp_path / "in").mkdir(exist_ok=True)
        jp.images.write(tmp_path / f"in/{name}.{ending}", pixels)
    command = ["purify", str(tmp_path / "in"), str(tmp_path / "out"), "--purifier", "none", "--no-cache", "--quiet"]
    with files_of_at_most(0):
        assert main(command) == 2
    assert capsys.readouterr().err.count("cannot be written: File too large") == 2
    assert listed(tmp_path / "out") == []
    with files_of_at_most(2048):
        assert main(command) == 2
    out, err = capsys.readouterr()
    assert "purified 1 images" in out
    assert f"large.{ending} cannot be written: File too large" in err
    assert [name for name in listed(tmp_path / "out") if not name.startswith(".")] == [f"small.{ending}"]
    assert main(command) == 0
    assert "purified 1 images" in capsys.readouterr().out
    with Image.open(tmp_path / f"out/large.{ending}") as picture:
        assert picture.convert("RGB").size == (48, 48)


@pytest.mark.parametrize("target", ["a.npz", "folder"])
def test_attacked_images(tmp_path, capsys, target):
    command = ["attack", str(tmp_path / target), "--limit", "2", "--attack", "fgsm:epsilon=8/255", "--no-cache"]
    with files_of_at_most(512):
        assert main([*command, "--quiet", "--devices", "1"]) == 2
    assert "File too large".lower() in capsys.readouterr().err.lower()
    assert not list(tmp_path.iterdir())


def test_an_evaluation(tmp_path):
    images = NOISE[None, :8, :8].astype(np.float32) / 255
    classifier = jp.classifier(lambda x: x.mean(axis=(1, 2)))
    data = (images, np.asarray(classifier(images)).argmax(1).astype(np.int32))

    def evaluate():
        return jp.evaluate(
            classifier, {"none": jp.purifiers.Identity()}, data, attacks=jp.attacks.FGSM(epsilon=0.01),
            threat_models="blind", run=tmp_path / "run", progress=False,
        )  # fmt: skip

    with files_of_at_most(0), pytest.raises(ValueError, match=r"run cannot be written: File too large; choose another"):
        evaluate()
    assert listed(tmp_path) == []
    with files_of_at_most(3000), pytest.raises((OSError, ValueError), match="File too large"):
        evaluate()
    evaluate()
    assert np.isfinite(evaluate().clean("none").fraction)


def test_converted_weights(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(3000)}, tmp_path / "a.pt")
    with files_of_at_most(4096), pytest.raises(OSError, match="File too large") as caught:
        jp.networks.convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert caught.value.errno == errno.EFBIG
    assert listed(tmp_path) == ["a.pt"]


def test_trained_weights(tmp_path):
    network = nnx.Linear(40, 40, rngs=nnx.Rngs(0))
    with files_of_at_most(4096), pytest.raises(OSError, match="File too large"):
        weights.save(network, tmp_path / "a.safetensors")
    assert listed(tmp_path) == []


def test_figures_and_galleries(tmp_path):
    images = NOISE[None].astype(np.float32) / 255
    found = jp.evaluation.analyse_noise(images, np.clip(images + 0.01, 0, 1))
    with files_of_at_most(4096), pytest.raises(OSError, match="File too large"):
        found.save_figure(tmp_path / "a.png")
    assert listed(tmp_path) == []
