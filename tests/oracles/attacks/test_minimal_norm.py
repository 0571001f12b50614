"""Our minimal-norm attacks beside those of torchattacks and Foolbox, on the same models, images and budgets."""

import jax
import numpy as np
import pytest

from jaxpurify import attacks
from jaxpurify.attacks.carlini_wagner import CarliniWagner
from jaxpurify.attacks.ddn import DDN
from jaxpurify.attacks.deepfool import DeepFool
from jaxpurify.attacks.fab import FAB
from jaxpurify.metrics.norms import perturbation_norms

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jaxpurify[torch]'")
from pairs import planar, predictions  # noqa: E402  (it needs PyTorch)

KEY = jax.random.key(0)
NAMES = {"linf": "Linf", "l2": "L2"}


@pytest.fixture(scope="session")
def foolbox():
    return pytest.importorskip("foolbox", reason="Foolbox is not installed")


def of_torchattacks(torchattacks, attack):
    steps = attack.steps
    if isinstance(attack, DeepFool):
        return lambda model: torchattacks.DeepFool(model, steps=steps)
    if isinstance(attack, CarliniWagner):
        return lambda model: torchattacks.CW(model, c=float(attack.price), steps=steps)
    aimed = bool(attack.target_classes)
    # Theirs, aimed at classes, ends at the first success within epsilon.
    return lambda model: torchattacks.FAB(
        model, norm=NAMES[attack.norm], eps=10.0, steps=steps, multi_targeted=aimed, n_classes=10
    )


def of_foolbox(foolbox, attack):
    if isinstance(attack, DeepFool):
        peer = {"l2": foolbox.attacks.L2DeepFoolAttack, "linf": foolbox.attacks.LinfDeepFoolAttack}[attack.norm]
        made = peer(steps=attack.steps)
    elif isinstance(attack, CarliniWagner):
        made = foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=attack.searches_of_price, steps=attack.steps, stepsize=0.01
        )
    else:
        made = foolbox.attacks.DDNAttack(steps=attack.steps)

    def run(model):
        wrapped = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device="cpu")
        return lambda images, labels: made(wrapped, images, labels, epsilons=None)[1].detach()

    return run


def compare(attack, peer, pair, count):
    """Assert that our attack is no weaker, as the model in PyTorch and distances in float64 have it."""
    images, labels = pair.images[:count], pair.labels[:count]
    result = attacks.run(attack, pair.ours, images, labels, KEY, batch_size=count)
    torch.manual_seed(0)
    others = peer(pair.theirs)(planar(images), torch.from_numpy(labels).long()).permute(0, 2, 3, 1).numpy()
    found = [predictions(pair.theirs, result.images) != labels, predictions(pair.theirs, others) != labels]
    # Images on the boundary are the answer, so frameworks may differ on a few of them by rounding.
    assert (found[0] == result.success).mean() >= 0.95
    found[0] = result.success
    norms = [perturbation_norms(images, adversarial, norm=attack.norm) for adversarial in (result.images, others)]
    both = found[0] & found[1]
    assert both.mean() > 0.5
    assert np.median(norms[0][both]) <= 1.02 * np.median(norms[1][both])
    # Robust accuracy where theirs leaves about a third, a half and two thirds.
    for share in (0.33, 0.5, 0.67):
        epsilon = np.quantile(norms[1], share) * (1 + 1e-4)
        ours, theirs = ((~fell | (size > epsilon)).mean() for fell, size in zip(found, norms, strict=True))
        assert ours <= theirs + max(2 / 256, 2 / count)
    assert found[0].mean() >= found[1].mean()


AGAINST_TORCHATTACKS = {
    "deepfool": DeepFool(steps=20),
    "fab-l2": FAB(norm="l2", steps=10),
    "fab-linf": FAB(norm="linf", steps=10),
    "fab-linf-aimed": FAB(norm="linf", steps=10, target_classes=9),
    "carlini-wagner": CarliniWagner(steps=50, searches_of_price=1, price=1.0),
}
AGAINST_FOOLBOX = {
    "deepfool-l2": DeepFool(steps=20),
    "deepfool-linf": DeepFool(norm="linf", steps=20),
    "carlini-wagner": CarliniWagner(steps=40, searches_of_price=7),
    "ddn": DDN(steps=50),
}


@pytest.mark.parametrize("name", AGAINST_TORCHATTACKS)
def test_attacks_are_no_weaker_than_torchattacks_on_a_perceptron(torchattacks, perceptron, name):
    attack = AGAINST_TORCHATTACKS[name]
    compare(attack, of_torchattacks(torchattacks, attack), perceptron, 128)


@pytest.mark.parametrize("name", AGAINST_FOOLBOX)
def test_attacks_are_no_weaker_than_foolbox_on_a_perceptron(foolbox, perceptron, name):
    attack = AGAINST_FOOLBOX[name]
    compare(attack, of_foolbox(foolbox, attack), perceptron, 128)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deepfool", "fab-l2", "fab-linf", "carlini-wagner"])
@pytest.mark.parametrize("model", ["resnet20", "robust"])
def test_attacks_are_no_weaker_than_torchattacks_on_cifar(torchattacks, request, model, name):
    attack = AGAINST_TORCHATTACKS[name]
    compare(attack, of_torchattacks(torchattacks, attack), request.getfixturevalue(model), 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", AGAINST_FOOLBOX)
@pytest.mark.parametrize("model", ["resnet20", "robust"])
def test_attacks_are_no_weaker_than_foolbox_on_cifar(foolbox, request, model, name):
    attack = AGAINST_FOOLBOX[name]
    compare(attack, of_foolbox(foolbox, attack), request.getfixturevalue(model), 64)
