"""Our attacks beside torchattacks' on the same models, and the figures measured elsewhere on real data."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks, networks
from jaxpurify.models import Defended, classifier
from jaxpurify.purifiers import GaussianSmoothing

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jaxpurify[torch]'")
import torch_networks  # noqa: E402  (it needs PyTorch)

KEY = jax.random.key(0)


class Pair(NamedTuple):
    """One model in both frameworks, with images and labels."""

    ours: Any
    theirs: Any
    images: np.ndarray
    labels: np.ndarray


def planar(images):
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).contiguous()


def predictions(model, images):
    with torch.no_grad():
        return model(planar(images)).argmax(dim=1).numpy()


class Perceptron(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.weights = [torch.from_numpy(weight) for weight in weights]
        self.register_buffer("somewhere", torch.zeros(1))  # torchattacks asks a model for its device

    def parameters(self, recurse=True):
        return iter([self.somewhere])

    def forward(self, images):
        return torch.tanh(images.permute(0, 2, 3, 1).flatten(1) @ self.weights[0]) @ self.weights[1]


@pytest.fixture(scope="session")
def perceptron():
    random = np.random.default_rng(0)
    weights = [np.float32(random.normal(size=(192, 24)) * 0.2), np.float32(random.normal(size=(24, 10)))]
    images = np.float32(random.uniform(size=(256, 8, 8, 3)))

    def apply(weights, images):
        return jnp.tanh(images.reshape(images.shape[0], -1) @ weights[0]) @ weights[1]

    theirs = Perceptron(weights)
    return Pair(classifier(apply, weights), theirs, images, predictions(theirs, images).astype(np.int32))


def cifar(real_data, tmp_path_factory, name, checkpoint, peer, count):
    source, target = real_data / "cifar10" / checkpoint, tmp_path_factory.mktemp(name) / "weights.safetensors"
    networks.convert(source, target)
    content = np.load(real_data / "cifar10" / "test.npz")
    images = content["images"][:count].astype(np.float32) / np.float32(255)
    labels = content["labels"][:count].astype(np.int32)
    return Pair(
        networks.load_classifier(name, weights=target), torch_networks.load_checkpoint(peer, source), images, labels
    )


@pytest.fixture(scope="session")
def resnet20(real_data, tmp_path_factory):
    peer = torch_networks.CifarResNet(20)
    return cifar(real_data, tmp_path_factory, "cifar-resnet20", "resnet20.th", peer, 128)


@pytest.fixture(scope="session")
def robust(real_data, tmp_path_factory):
    peer = torch_networks.CifarResNet4b()
    return cifar(real_data, tmp_path_factory, "cifar-resnet4b", "robust_resnet4b.pth", peer, 256)


def peer_attack(torchattacks, name, model, epsilon, steps):
    if name == "fgsm":
        return torchattacks.FGSM(model, eps=epsilon)
    if name == "mi-fgsm":
        return torchattacks.MIFGSM(model, eps=epsilon, alpha=epsilon / steps, steps=steps)
    return torchattacks.PGD(model, eps=epsilon, alpha=epsilon / 4, steps=steps)


def compare(torchattacks, pair, name, epsilon, steps):
    """Return the robust accuracies of our attack and theirs, both judged by the model in PyTorch."""
    ours = attacks.make(name if name == "fgsm" else f"{name}:steps={steps}")
    ours = type(ours)(**{**vars(ours), "epsilon": epsilon})
    result = attacks.run(ours, pair.ours, pair.images, pair.labels, KEY, batch_size=len(pair.images))
    fooled = predictions(pair.theirs, result.images) != pair.labels
    # Both frameworks see the same images and must say the same of them, but for a margin of rounding.
    assert (fooled == result.success).mean() >= 0.995
    torch.manual_seed(0)
    attack = peer_attack(torchattacks, name, pair.theirs, epsilon, steps)
    others = attack(planar(pair.images), torch.from_numpy(pair.labels).long())
    with torch.no_grad():
        right = (pair.theirs(others).argmax(dim=1).numpy() == pair.labels).mean()
    return 1 - fooled.mean(), right


@pytest.mark.parametrize("name", ["fgsm", "mi-fgsm", "pgd"])
def test_attacks_are_no_weaker_than_torchattacks_on_a_perceptron(torchattacks, perceptron, name):
    ours, theirs = compare(torchattacks, perceptron, name, 4 / 255, 10)
    assert 0.05 < theirs < 0.95
    assert ours <= theirs + 2 / 256


@pytest.mark.parametrize(("name", "steps"), [("fgsm", 1), ("mi-fgsm", 10), ("pgd", 10)])
@pytest.mark.parametrize(("model", "epsilon"), [("resnet20", 1 / 255), ("robust", 2 / 255)])
def test_attacks_are_no_weaker_than_torchattacks_on_cifar(torchattacks, request, model, epsilon, name, steps):
    pair = request.getfixturevalue(model)
    ours, theirs = compare(torchattacks, pair, name, epsilon, steps)
    assert 0.02 < theirs < 0.95
    assert ours <= theirs + 2 / 256


def test_robust_network_has_the_robust_accuracy_measured_elsewhere(robust):
    """torchattacks' PGD-40 leaves 63.3 % of these 256 images, and AutoAttack at full budgets 62.1 %."""
    attack = attacks.PGD(epsilon=2 / 255, steps=40)
    full = attacks.run(attack, robust.ours, robust.images, robust.labels, KEY, batch_size=256)
    early = attacks.verdict(attack, robust.ours, robust.images, robust.labels, KEY)
    remaining = (predictions(robust.theirs, full.images) == robust.labels).mean()
    assert 0.60 <= remaining <= 0.637
    assert 1 - full.success.mean() == pytest.approx(remaining, abs=1 / 256)
    assert 0.60 <= early.robust_accuracy <= 0.637
    np.testing.assert_array_equal(early.fooled >= full.success, True)


@jax.jit
def one_step(target, images, clean, labels, standing):
    def loss(images):
        logits = target(images)
        return (jax.nn.logsumexp(logits, axis=1) - logits[jnp.arange(len(images)), labels]).sum(), logits

    gradient, logits = jax.grad(loss, has_aux=True)(images)
    standing = standing & (logits.argmax(axis=1) == labels)
    moved = jnp.clip(images + 2 / 255 * jnp.sign(gradient), clean - 8 / 255, clean + 8 / 255).clip(0, 1)
    return jnp.where(standing[:, None, None, None], moved, images), standing


def stopped_at_success(target, clean, labels):
    images, standing = clean, jnp.ones(len(labels), bool)
    while standing.any():
        images, standing = one_step(target, images, clean, labels, standing)
    return images


def test_blind_images_are_full_budget_images(resnet20):
    """Images stopped at their first success would make weak smoothing look like a defence."""
    model, images, labels = resnet20.ours, resnet20.images, resnet20.labels
    defended = jax.jit(Defended(model, GaussianSmoothing(sigma=0.5, iterations=2)))
    blind = attacks.run(attacks.PGD(epsilon=8 / 255, steps=40), model, images, labels, KEY, batch_size=128)
    assert (np.asarray(defended(images)).argmax(axis=1) == labels).mean() > 0.8
    assert (np.asarray(defended(blind.images)).argmax(axis=1) == labels).mean() <= 0.08
    stopped = stopped_at_success(model, jnp.asarray(images), jnp.asarray(labels))
    assert (np.asarray(model(stopped)).argmax(axis=1) != labels).all()
    assert (np.asarray(defended(stopped)).argmax(axis=1) == labels).mean() > 0.4
