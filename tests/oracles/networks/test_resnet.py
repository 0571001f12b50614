import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxpurify import networks

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jaxpurify[torch]'")
import torch_networks  # noqa: E402  (it needs PyTorch)

PEERS = {
    "cifar-resnet20": lambda: torch_networks.CifarResNet(20),
    "cifar-resnet56": lambda: torch_networks.CifarResNet(56),
    "cifar-resnet4b": torch_networks.CifarResNet4b,
}
CHECKPOINTS = {
    "cifar-resnet20": "resnet20.th",
    "cifar-resnet56": "resnet56.th",
    "cifar-resnet4b": "robust_resnet4b.pth",
}


def with_random_weights(peer):
    """Fill a network, running averages included: those of a new one are 0 and 1 and would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in peer.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            tensor.uniform_(0.5, 1.5, generator=generator)
            if name.endswith(("running_mean", "bias")):
                tensor.sub_(1)
            elif tensor.ndim > 1:
                tensor.sub_(1).mul_((6 / tensor[0].numel()) ** 0.5)
    return peer.eval()


def both(classifier, peer, images):
    logits = jax.jit(lambda classifier, images: classifier(images))(classifier, images)
    with torch.no_grad():
        expected = peer(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    return np.asarray(logits), expected.numpy()


@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-resnet4b"])
def test_logits_are_those_of_pytorch_with_random_weights(name, tmp_path):
    peer = with_random_weights(PEERS[name]())
    save_file({key: tensor.numpy() for key, tensor in peer.state_dict().items()}, tmp_path / "a.safetensors")
    classifier = networks.load_classifier(name, weights=tmp_path / "a.safetensors")
    images = np.random.default_rng(0).uniform(size=(4, 32, 32, 3)).astype(np.float32)
    logits, expected = both(classifier, peer, images)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_logits_are_those_of_pytorch_at_odd_sizes(tmp_path):
    peer = with_random_weights(torch_networks.CifarResNet(20))
    save_file({key: tensor.numpy() for key, tensor in peer.state_dict().items()}, tmp_path / "a.safetensors")
    classifier = networks.load_classifier("cifar-resnet20", weights=tmp_path / "a.safetensors")
    images = np.random.default_rng(0).uniform(size=(2, 17, 30, 3)).astype(np.float32)
    np.testing.assert_allclose(*both(classifier, peer, images), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="session")
def test_images(real_data):
    content = np.load(real_data / "cifar10" / "test.npz")
    return content["images"].astype(np.float32) / np.float32(255), content["labels"]


@pytest.mark.parametrize(
    ("name", "count", "published"),
    [("cifar-resnet20", 128, 0.9375), ("cifar-resnet56", 128, None), ("cifar-resnet4b", 256, 0.789)],
)
def test_published_weights_give_the_logits_and_accuracy_of_pytorch(
    real_data, test_images, tmp_path, name, count, published
):
    source, target = real_data / "cifar10" / CHECKPOINTS[name], tmp_path / "a.safetensors"
    assert networks.convert(source, target).architecture == name
    images, labels = test_images[0][:count], test_images[1][:count]
    classifier = networks.load_classifier(name, weights=target)
    logits, expected = both(classifier, torch_networks.load_checkpoint(PEERS[name](), source), images)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    accuracy = float(np.mean(logits.argmax(1) == labels))
    if published is None:
        assert accuracy > 0.93
    else:
        assert accuracy == pytest.approx(published, abs=0.0006)


@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-resnet4b"])
def test_gradients_to_images_are_those_of_pytorch(real_data, test_images, tmp_path, name):
    source, target = real_data / "cifar10" / CHECKPOINTS[name], tmp_path / "a.safetensors"
    networks.convert(source, target)
    classifier = networks.load_classifier(name, weights=target)
    peer = torch_networks.load_checkpoint(PEERS[name](), source)
    images = test_images[0][:16]
    gradient = jax.jit(jax.grad(lambda images, classifier: (classifier(images) ** 2).sum() / 100))(images, classifier)
    theirs = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().requires_grad_()
    (peer(theirs) ** 2).sum().div(100).backward()
    expected = theirs.grad.permute(0, 2, 3, 1).reshape(len(images), -1).numpy()
    # A rectifier whose input is zero but for rounding may open in one and not in the other: rare, and local.
    difference = np.asarray(gradient).reshape(len(images), -1) - expected
    error = np.linalg.norm(difference, axis=1) / np.linalg.norm(expected, axis=1)
    assert np.median(error) < 1e-5
    assert error.max() < 1e-2
