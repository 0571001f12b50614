"""A model in half precision falls as its float32 twin does: natively, cast at the end, and through PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks, interop
from jaxpurify.models import classifier

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(1).uniform(0.2, 0.8, (64, 8, 8, 3)).astype(np.float32)
WEIGHTS = np.random.default_rng(0).normal(size=(192, 5)).astype(np.float32)
SCALES = (3, 20, 60)


@functools.cache  # so that one program serves all scales
def computed_in(dtype, *, returned=None):
    """Return the linear model in a precision; the scale is among its weights, or, cast, behind the cast."""

    def apply(variables, images):
        weights, scale = variables
        inner = weights * (scale if returned is None else 1)
        logits = (images - 0.5).astype(dtype).reshape(len(images), -1) @ inner.astype(dtype)
        return logits if returned is None else logits.astype(returned) * scale

    return apply


def in_torch(scale):
    import torch

    layer = torch.nn.Linear(192, 5, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(WEIGHTS.T * scale))

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, images):
            return self.layer((images - 0.5).flatten(1))

    return interop.torch_classifier(Model().half(), channels_first=False)


def twins(scale):
    for name, apply in (
        ("float16", computed_in(jnp.float16)),
        ("bfloat16", computed_in(jnp.bfloat16)),
        ("cast at the end", computed_in(jnp.float16, returned=jnp.float32)),
    ):
        yield name, classifier(apply, (WEIGHTS, np.float32(scale)))
    yield "PyTorch", in_torch(scale)


ATTACKS = {
    "fgsm": attacks.FGSM(epsilon=0.012),
    "pgd": attacks.PGD(epsilon=0.012, steps=10),
    "mi": attacks.MIFGSM(epsilon=0.012),
    "apgd": attacks.APGD(epsilon=0.012, steps=15),
    "ddn": attacks.DDN(epsilon=0.12, steps=40),
    "carlini-wagner": attacks.CarliniWagner(epsilon=0.12, steps=60, searches_of_price=4, price=0.01),
    "deepfool": attacks.DeepFool(epsilon=0.12),
    "fab": attacks.FAB(epsilon=0.012, steps=15),
}


QUICK = ("fgsm",)
LABELS = np.argmax((IMAGES - 0.5).reshape(64, -1) @ WEIGHTS, axis=1).astype(np.int32)


def left(attack, target):
    return attacks.verdict(attack, target, IMAGES, LABELS, KEY)


def at_most_one_more(attack, whole, halves):
    reference = left(attack, whole)
    assert 0.1 <= reference.robust_accuracy <= 0.6  # where there is something to see
    for name, twin in halves:
        found = left(attack, twin)
        assert found.robust_accuracy <= reference.robust_accuracy + 1 / 64 + 1e-9, name
        assert found.agreement.reliable, (name, found.agreement)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ATTACKS])
def test_a_linear_model_falls_alike_in_any_precision_and_at_any_scale(name, lenient):
    for scale in SCALES:
        whole = classifier(computed_in(jnp.float32), (WEIGHTS, np.float32(scale)))
        at_most_one_more(ATTACKS[name], whole, twins(scale))


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3])
def test_a_gradient_passes_float16_whatever_comes_after_it(scale, lenient):
    """Cast to float32 and scaled there: the cotangent that enters float16 is far from one."""
    whole = classifier(computed_in(jnp.float32), (WEIGHTS, np.float32(scale)))
    twin = classifier(computed_in(jnp.float16, returned=jnp.float32), (WEIGHTS, np.float32(scale)))
    for attack in (ATTACKS["fgsm"], ATTACKS["deepfool"]):
        assert left(attack, twin).robust_accuracy <= left(attack, whole).robust_accuracy + 1 / 64


@functools.cache
def squashed(dtype):
    """Clipped between: of confident images the gradient is zero in every precision."""
    random = np.random.default_rng(2).normal(size=(5, 5))

    def apply(weights, images):
        inner = (images - 0.5).astype(dtype).reshape(len(images), -1) @ weights.astype(dtype)
        return jnp.clip(inner, -1, 1) @ jnp.asarray(random, dtype)

    return apply


@pytest.mark.filterwarnings("ignore:the target")
@pytest.mark.parametrize("scale", [0, 1])
def test_a_gradient_of_zero_is_zero_in_float16_and_not_nan(scale, lenient):
    twins = [classifier(squashed(dtype), WEIGHTS * np.float32(scale)) for dtype in (jnp.float32, jnp.float16)]
    labels = np.asarray(twins[0](jnp.asarray(IMAGES))).argmax(axis=1).astype(np.int32)
    for attack in (attacks.PGD(epsilon=0.01, steps=3), attacks.DeepFool(epsilon=0.1, steps=3)):
        whole, half = (attacks.verdict(attack, twin, IMAGES, labels, KEY) for twin in twins)
        assert (half.status != 2).all()
        assert abs(half.robust_accuracy - whole.robust_accuracy) <= 2 / 64


def own_cross_entropy(outputs, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], axis=1)[:, 0]


def test_a_callers_own_loss_computes_in_float32(lenient):
    attack = attacks.PGD(epsilon=0.02, steps=3, loss=own_cross_entropy)
    found = [
        attacks.verdict(attack, classifier(computed_in(dtype), (WEIGHTS, np.float32(20))), IMAGES, LABELS, KEY)
        for dtype in (jnp.float32, jnp.float16)
    ]
    assert found[1].robust_accuracy <= found[0].robust_accuracy + 1 / 64
    assert (found[1].status != 2).all()


def test_float16_on_the_way_back_alone_is_seen(lenient):
    """The forward pass is float32 throughout; a stand-in goes backward through float16, behind tiny logits."""
    from jaxpurify import gradients
    from jaxpurify.models import Defended
    from jaxpurify.purifiers import GaussianSmoothing

    smooth = GaussianSmoothing(sigma=0.5)
    tiny = classifier(computed_in(jnp.float32), (WEIGHTS, np.float32(1e-9)))

    def halved(images):
        return smooth(images).astype(jnp.float16).astype(jnp.float32)

    target = Defended(tiny, gradients.substitute(smooth, surrogate=halved))
    labels = np.asarray(target(jnp.asarray(IMAGES))).argmax(axis=1).astype(np.int32)
    whole = left_of(attacks.FGSM(epsilon=0.02), Defended(tiny, smooth), labels)
    assert left_of(attacks.FGSM(epsilon=0.02), target, labels) <= whole + 1 / 64


def left_of(attack, target, labels):
    return attacks.verdict(attack, target, IMAGES, labels, KEY).robust_accuracy
