"""Our gradient attacks beside Foolbox's on the same model, images and budget."""

import jax
import pytest

from jaxpurify.attacks import drivers
from jaxpurify.attacks.gradient import PGD, AdamPGD

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jaxpurify[torch]'")
foolbox = pytest.importorskip("foolbox", reason="Foolbox is not installed")
from pairs import planar, predictions  # noqa: E402  (it needs PyTorch)

KEY = jax.random.key(0)
STEPS = 20
# Ours, theirs, and epsilon on the perceptron and on the robust network. Theirs has no plain step of the l1 norm: its
# L1PGD follows the gradient itself, divided by its l1 norm. In Foolbox, Adam follows the sign of the gradient in the
# linf norm, ours the gradient.
PEERS = {
    "l1": (PGD(norm="l1"), foolbox.attacks.L1PGD, 3.0, 12.0),
    "l1-sparse": (PGD(norm="l1", random_start=False), foolbox.attacks.SparseL1DescentAttack, 3.0, 12.0),
    "l2": (PGD(norm="l2"), foolbox.attacks.L2PGD, 0.15, 0.25),
    "linf-adam": (AdamPGD(), foolbox.attacks.LinfAdamPGD, 4 / 255, 2 / 255),
    "l2-adam": (AdamPGD(norm="l2"), foolbox.attacks.L2AdamPGD, 0.15, 0.25),
}


def compare(pair, ours, peer, epsilon):
    """Return robust accuracies, ours and theirs, with our default steps for both and with theirs for theirs."""
    ours = type(ours)(**{**vars(ours), "epsilon": epsilon, "steps": STEPS})
    result = drivers.run(ours, pair.ours, pair.images, pair.labels, KEY, batch_size=len(pair.images))
    torch.manual_seed(0)
    model = foolbox.PyTorchModel(pair.theirs, bounds=(0, 1), device="cpu")
    images, labels, robust = planar(pair.images), torch.from_numpy(pair.labels).long(), []
    for attack in (peer(steps=STEPS), peer(steps=STEPS, rel_stepsize=0.25)):
        fooled = attack(model, images, labels, epsilons=[epsilon])[2][0]
        robust.append(1 - float(fooled.float().mean()))
    return (predictions(pair.theirs, result.images) == pair.labels).mean(), min(robust)


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("name", PEERS)
def test_attacks_are_no_weaker_than_foolbox_on_a_perceptron(perceptron, name):
    ours, peer, epsilon, _ = PEERS[name]
    ours, theirs = compare(perceptron, ours, peer, epsilon)
    assert 0.05 < theirs < 0.95
    assert ours <= theirs + 2 / 256


@pytest.mark.slow
@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("name", PEERS)
def test_attacks_are_no_weaker_than_foolbox_on_cifar(robust, name):
    ours, peer, _, epsilon = PEERS[name]
    ours, theirs = compare(robust, ours, peer, epsilon)
    assert 0.05 < theirs < 0.95
    assert ours <= theirs + 2 / 256
