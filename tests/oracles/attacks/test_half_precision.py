"""ResNet-20 in half precision falls as its float32 twin does: natively, cast at the end, and through PyTorch."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks, interop
from jaxpurify.models import classifier

KEY = jax.random.key(0)
SCALES = (3, 20, 60)
# Steps enough that distances have settled: with fewer, those of one image differ by up to 1.8 times either way between
# precisions, though not on average, and the count at one epsilon with them.
CIFAR = {
    "fgsm": attacks.FGSM(epsilon=1 / 255),
    "pgd": attacks.PGD(epsilon=1 / 255, steps=8),
    "mi": attacks.MIFGSM(epsilon=1 / 255, steps=8),
    "apgd": attacks.APGD(epsilon=1 / 255, steps=8),
    "ddn": attacks.DDN(epsilon=0.12, steps=50, start=0.2),
    "carlini-wagner": attacks.CarliniWagner(epsilon=0.22, steps=40, searches_of_price=2, price=1.0, step_size=0.002),
    "deepfool": attacks.DeepFool(epsilon=0.12, steps=10, candidates=4),
    "fab": attacks.FAB(epsilon=1 / 255, steps=60, candidates=3),
}


def _cast(tree, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


@pytest.mark.slow
@pytest.mark.parametrize("name", CIFAR)
def test_resnet20_falls_alike_in_any_precision_and_at_any_scale(name, resnet20, torch, lenient):
    whole, images, labels = resnet20.ours, resnet20.images[:64], resnet20.labels[:64]

    class Scaled(torch.nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.model, self.scale = copy.deepcopy(resnet20.theirs), scale

        def forward(self, images):
            return self.model(images) * self.scale

    def apply(dtype, cast):
        def run(variables, images):
            weights, scale = variables
            logits = whole.apply(_cast(weights, dtype), images.astype(dtype))
            return logits.astype(jnp.float32) * scale if cast else logits * scale.astype(dtype)

        return run

    for scale in SCALES:
        jax.clear_caches()  # programs of a network in four precisions take gigabytes
        variables = whole.variables, np.float32(scale)
        halves = [
            ("float16", classifier(apply(jnp.float16, False), variables)),
            ("bfloat16", classifier(apply(jnp.bfloat16, False), variables)),
            ("cast at the end", classifier(apply(jnp.float16, True), variables)),
            ("PyTorch", interop.torch_classifier(Scaled(scale).half())),
        ]
        reference = attacks.verdict(CIFAR[name], classifier(apply(jnp.float32, False), variables), images, labels, KEY)
        assert 0.1 <= reference.robust_accuracy <= 0.6  # where there is something to see
        for half, twin in halves:
            found = attacks.verdict(CIFAR[name], twin, images, labels, KEY)
            print(f"{name} × {scale}, {half}: {found.robust_accuracy:.3f}, ρ {found.agreement.rho}")
            assert found.robust_accuracy <= reference.robust_accuracy + 1 / 64 + 1e-9, half
            assert found.agreement.reliable, (half, found.agreement)
