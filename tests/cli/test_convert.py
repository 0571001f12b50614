"""``jaxpurify convert``."""

import pickle

import numpy as np
import pytest

from jaxpurify import networks
from jaxpurify.networks import weights

torch = pytest.importorskip("torch", reason="converting needs PyTorch")


def test_a_real_checkpoint_is_identified_and_loads(cli, real_data, tmp_path):
    code, out, err = cli("convert", real_data / "cifar10/resnet20.th", "resnet20.safetensors")
    assert (code, err) == (0, "")
    first, following = out.splitlines()
    assert first.startswith("wrote resnet20.safetensors: ")
    assert first.endswith(" parameters, which fit cifar-resnet20")
    assert following.endswith("--classifier cifar-resnet20 --weights resnet20.safetensors")
    networks.load_classifier("cifar-resnet20", weights=tmp_path / "resnet20.safetensors")


def test_weights_of_an_unknown_network_are_converted_all_the_same(cli, tmp_path):
    values = torch.arange(6.0).reshape(2, 3)
    torch.save({"state_dict": {"module.a": values}}, tmp_path / "a.pt")
    code, out, err = cli("convert", "a.pt", "a.safetensors")
    assert (code, err) == (0, "")
    assert out == (
        "wrote a.safetensors: 1 arrays of state_dict, 6 parameters, which fit no network that jaxpurify knows; "
        "all names begin with module.\n"
    )
    np.testing.assert_array_equal(weights.read(tmp_path / "a.safetensors")["module.a"], values.numpy())


def test_of_several_sets_of_weights_the_key_chooses(cli, refused, tmp_path):
    torch.save({"model": {"a.w": torch.zeros(2)}, "ema": {"a.w": torch.ones(2)}, "epoch": 3}, tmp_path / "a.pt")
    assert "several sets of weights, under model, ema: choose one by its key (--key)" in refused(
        "convert", "a.pt", "a.safetensors"
    )
    code, out, err = cli("convert", "a.pt", "a.safetensors", "--key", "ema")
    assert (code, err) == (0, "")
    assert out.startswith("wrote a.safetensors: 1 arrays of ema, 2 parameters")
    assert out.endswith("not taken: the weights of model\n")
    np.testing.assert_array_equal(weights.read(tmp_path / "a.safetensors")["a.w"], [1, 1])


def test_bad_checkpoints_are_refused(refused, tmp_path):
    class Danger:
        def __reduce__(self):
            return open, (str(tmp_path / "written by a pickle"), "w")

    (tmp_path / "danger.pt").write_bytes(pickle.dumps({"state_dict": Danger()}))
    assert "nothing in it ran" in refused("convert", "danger.pt", "a.safetensors")
    assert "no checkpoint absent.pt" in refused("convert", "absent.pt", "a.safetensors")
    torch.save({"a": torch.zeros(300)}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    assert "truncated" in refused("convert", "cut.pt", "a.safetensors")
    assert "there is no network 'vgg'" in refused("convert", "whole.pt", "a.safetensors", "--architecture", "vgg")
    assert "do not fit cifar-resnet20" in refused(
        "convert", "whole.pt", "a.safetensors", "--architecture", "cifar-resnet20"
    )
    assert "absent/a.safetensors: no such file" in refused("convert", "whole.pt", "absent/a.safetensors")


def test_a_checkpoint_is_not_overwritten_by_its_own_conversion(refused, tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pt")
    (tmp_path / "link.pt").symlink_to("a.pt")
    for target in ("a.pt", "link.pt", "./a.pt"):
        assert "the same file as the source" in refused("convert", "a.pt", target)
