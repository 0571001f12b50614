import jax
import numpy as np
import pytest
from flax import nnx

from jaxpurify import networks
from jaxpurify.networks import edsr, weights

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jaxpurify[torch]'")
import torch_super_resolution  # noqa: E402  (it needs PyTorch)

SMALL = {"features": 8, "blocks": 2}


def published(peer):
    return {name: tensor.numpy() for name, tensor in peer.state_dict().items()}


def outputs(network, images):
    return np.asarray(jax.jit(lambda network, images: network(images))(network, images))


def expected(peer, images):
    with torch.no_grad():
        return peer(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()


def images(*shape):
    return np.random.default_rng(0).uniform(size=(*shape, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("scale", "options"), [(2, {}), (3, {}), (4, {}), (2, {"residual_scale": 0.1}), (4, {"levels": 1.0})]
)
def test_outputs_are_those_of_pytorch_with_random_weights(scale, options):
    peer = torch_super_resolution.random_edsr(scale, **SMALL, **options)
    options = {name: value for name, value in options.items() if name != "levels"}
    module = nnx.eval_shape(lambda: networks.EDSR(scale, **SMALL, **options, rngs=nnx.Rngs(0)))
    table = edsr.edsr_table(scale, blocks=2)
    weights.load(module, edsr.without_mean_shift(published(peer)), table=table)
    graph, state = nnx.split(module)
    pictures = images(2, 7, 10)
    found = outputs(jax.tree_util.Partial(lambda state, images: nnx.merge(graph, state)(images), state), pictures)
    theirs = expected(peer, pictures)
    assert found.shape == (2, 7 * scale, 10 * scale, 3)
    assert np.ptp(theirs) > 0.1
    np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-5)


def check_by_name(name, peer, folder):
    torch.save(peer.state_dict(), folder / "a.pt")
    converted = networks.convert(folder / "a.pt", folder / "a.safetensors")
    assert converted.architecture == name
    trained = [weight.numel() for weight in peer.parameters() if weight.requires_grad]
    assert converted[1:] == (len(trained), sum(trained), "", (), "", "")
    network = networks.load_network(name, weights=folder / "a.safetensors")
    pictures = images(1, 8, 8)
    theirs = expected(peer, pictures)
    assert np.ptp(theirs) > 0.1
    np.testing.assert_allclose(outputs(network, pictures), theirs, rtol=0, atol=1e-4)
    return converted.parameters


def test_a_published_baseline_is_converted_and_loaded_by_name(tmp_path):
    assert check_by_name("edsr-baseline-x2", torch_super_resolution.random_edsr(2), tmp_path) == 1_369_859


@pytest.mark.slow
def test_a_published_large_network_is_converted_and_loaded_by_name(tmp_path):
    peer = torch_super_resolution.random_edsr(4, features=256, blocks=32, residual_scale=0.1)
    check_by_name("edsr-large-x4", peer, tmp_path)
