import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from jaxpurify.networks import conversion, registry, weights

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jaxpurify[torch]'")


class RunsCode:
    """Unpickled by an ordinary unpickler, it creates a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def state():
    """A state dict of the four-block network, as PyTorch names and shapes it."""
    architecture = registry.architecture("cifar-resnet4b")
    module = architecture.abstract()
    shapes = weights.expected_shapes(module, architecture.table())
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) / 10 for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "accuracy": 0.9},
        lambda state: {"net": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3},
        lambda state: {"model": {"state_dict": state}},
        lambda state: state | {"conv1.num_batches_tracked": torch.tensor(7)},
    ],
    ids=["bare", "state_dict", "net and module.", "nested", "counters"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_found_and_identified(state, tmp_path, wrap, zipped):
    torch.save(wrap(state), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    result = conversion.convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert result[:3] == ("cifar-resnet4b", len(state), sum(t.numel() for t in state.values()))
    converted = weights.read(tmp_path / "a.safetensors")
    assert set(converted) == set(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(converted[name], tensor.numpy())
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        assert file.metadata()["architecture"] == "cifar-resnet4b"


def test_half_precision_and_shared_tensors_survive(tmp_path):
    shared = torch.arange(6.0).to(torch.bfloat16).reshape(2, 3)
    torch.save({"a": shared, "b": shared.T}, tmp_path / "a.pth")
    assert conversion.convert(tmp_path / "a.pth", tmp_path / "a.safetensors").architecture is None
    converted = weights.read(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(converted["b"].astype(np.float32), converted["a"].T.astype(np.float32))


@pytest.mark.parametrize("kind", ["pickle", "old pickle", "checkpoint", "old checkpoint"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_runs_none(tmp_path, kind):
    marker, source, target = tmp_path / "it-ran", tmp_path / "evil.pth", tmp_path / "evil.safetensors"
    evil = {"weight": torch.ones(3), "bomb": RunsCode(marker)}
    if "pickle" in kind:
        source.write_bytes(pickle.dumps(RunsCode(marker), protocol=0 if "old" in kind else None))
    else:
        torch.save(evil, source, _use_new_zipfile_serialization=kind == "checkpoint")
    with pytest.raises(ValueError, match="refused and nothing in it ran") as raised:
        conversion.convert(source, target)
    assert "\n" not in str(raised.value)
    assert not marker.exists()
    assert not target.exists()
    with pytest.raises(ValueError, match="jaxpurify convert"):
        weights.read(source)
    assert not marker.exists()


def test_the_marker_of_that_pickle_works(tmp_path):
    pickle.loads(pickle.dumps(RunsCode(tmp_path / "it-ran")))
    assert (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused_in_one_sentence(state, tmp_path, zipped, share):
    source, target = tmp_path / "a.pth", tmp_path / "a.safetensors"
    torch.save(state, source, _use_new_zipfile_serialization=zipped)
    content = source.read_bytes()
    source.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="truncated") as raised:
        conversion.convert(source, target)
    assert "\n" not in str(raised.value)
    assert not target.exists()


def test_another_architecture_is_named(state, tmp_path):
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"do not fit cifar-resnet20: missing: .*; they fit cifar-resnet4b"):
        conversion.convert(tmp_path / "a.pth", tmp_path / "a.safetensors", architecture="cifar-resnet20")
    assert not (tmp_path / "a.safetensors").exists()
    assert (
        conversion.convert(tmp_path / "a.pth", tmp_path / "a.safetensors", architecture="cifar-resnet4b").architecture
        == "cifar-resnet4b"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": float("nan") * torch.ones(2)}, "NaN or infinity in a"),
        ({"a": torch.ones(2), "epoch": 3}, "tensors only, got something else under epoch"),
        ({}, "must hold named weights .* got nothing"),
        ([torch.ones(2)], "must hold named weights .* got list"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message):
        conversion.convert(tmp_path / "a.pth", tmp_path / "a.safetensors")


def test_converted_files_are_not_converted_again(state, tmp_path):
    torch.save(state, tmp_path / "a.pth")
    conversion.convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="safetensors file already"):
        conversion.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")


def test_unknown_names_and_missing_files_come_before_reading(tmp_path):
    with pytest.raises(ValueError, match="no network 'resnet'"):
        conversion.convert(tmp_path / "absent.pth", tmp_path / "a.safetensors", architecture="resnet")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*absent\.pth"):
        conversion.convert(tmp_path / "absent.pth", tmp_path / "a.safetensors")


def test_without_pytorch_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.pth").write_bytes(pickle.dumps({}))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxpurify\[torch\]'"):
        conversion.convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
