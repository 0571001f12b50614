import functools
import subprocess
import sys
import textwrap

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpurify as jp
from jaxpurify.models import Defended, as_target, attribute, classifier
from jaxpurify.purifiers import GaussianNoise, GaussianSmoothing
from jaxpurify.testing import count_compilations

SHAPE = (6, 8, 9, 3)
IMAGES = np.float32(np.random.default_rng(0).uniform(size=SHAPE))
LABELS = np.arange(6, dtype=np.int32) % 5
KEY = jax.random.key(1)
ATTACK = jp.attacks.PGD(epsilon=8 / 255, steps=3)


def same_search(ours, plain, purifier=None):
    """Both are attacked alike and must give the same images, but for rounding that a sign can make large."""
    first, second = (
        jp.attacks.run(ATTACK, Defended(model, purifier), IMAGES, LABELS, KEY, batch_size=6) for model in (ours, plain)
    )
    np.testing.assert_allclose(first.loss, second.loss, atol=1e-5)
    np.testing.assert_array_equal(first.success, second.success)
    assert (np.abs(first.images - second.images) > 1e-5).mean() < 1e-3


# Other JAX libraries: each model against the same function given plainly.


class Linen(nn.Module):
    @nn.compact
    def __call__(self, images):
        hidden = nn.tanh(nn.Conv(4, (3, 3))(images)).mean(axis=(1, 2))
        return nn.Dense(5)(hidden)


def linen():
    module = Linen()
    draw = jax.jit(module.init)
    return module.apply, draw(jax.random.key(0), IMAGES), draw(jax.random.key(5), IMAGES)


def haiku():
    hk = pytest.importorskip("haiku", reason="Haiku is not installed")

    def forward(images):
        return hk.Linear(5)(jnp.tanh(hk.Conv2D(4, 3)(images)).mean(axis=(1, 2)))

    transformed = hk.without_apply_rng(hk.transform(forward))
    return transformed.apply, transformed.init(jax.random.key(0), IMAGES), transformed.init(jax.random.key(5), IMAGES)


@pytest.mark.parametrize("library", [linen, haiku])
def test_an_apply_function_with_its_variables_is_attacked_like_the_plain_function(library, lenient):
    apply, variables, others = library()
    model = classifier(apply, variables)
    same_search(model, functools.partial(apply, variables))
    with count_compilations() as compilations:
        jp.attacks.run(ATTACK, Defended(classifier(apply, others)), IMAGES, LABELS, KEY, batch_size=6)
    assert compilations.count("advance") == 0


class Equinox(eqx.Module):
    convolution: eqx.nn.Conv2d
    linear: eqx.nn.Linear

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.convolution = eqx.nn.Conv2d(3, 4, 3, padding=1, key=first)
        self.linear = eqx.nn.Linear(4, 5, key=second)

    def __call__(self, image):
        return self.linear(jnp.tanh(self.convolution(image)).mean(axis=(1, 2)))


def test_an_equinox_module_is_attacked_like_the_plain_function(lenient):
    model = Equinox(jax.random.key(0))
    options = {"batched": False, "channels_first": True}
    same_search(
        classifier(model, **options), lambda images: jax.vmap(model)(jnp.asarray(images).transpose((0, 3, 1, 2)))
    )
    with count_compilations() as compilations:
        other = classifier(Equinox(jax.random.key(5)), **options)
        jp.attacks.run(ATTACK, Defended(other), IMAGES, LABELS, KEY, batch_size=6)
    assert compilations.count("advance") == 0


# PyTorch: against PyTorch itself, and against the same weights in JAX.

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jaxpurify[torch]'")


class Net(torch.nn.Module):
    """Smooth, with batch statistics to go wrong in training mode; counts how often it is called."""

    def __init__(self, channels_first=True):
        super().__init__()
        self.channels_first, self.calls = channels_first, 0
        self.convolution = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.linear = torch.nn.Linear(28, 5)

    def forward(self, images):
        self.calls += 1
        images = images if self.channels_first else images.permute(0, 3, 1, 2)
        return self.linear(torch.tanh(self.norm(self.convolution(images))).mean(dim=2).flatten(1))


def make_net(**options):
    torch.manual_seed(0)
    module = Net(**options)
    module.norm.running_mean.uniform_(-0.5, 0.5)
    module.norm.running_var.uniform_(0.5, 1.5)
    with torch.no_grad():
        module.linear.weight.mul_(10)
    return module


@pytest.fixture
def net():
    return make_net()


@pytest.fixture
def model(net):
    return jp.interop.torch_classifier(net)


def plain(module):
    """Return the same function in JAX."""
    kernel, bias, scale, shift, mean, variance, weight, offset = (
        jnp.asarray(value.detach().numpy())
        for value in (
            *(module.convolution.weight, module.convolution.bias, module.norm.weight, module.norm.bias),
            *(module.norm.running_mean, module.norm.running_var, module.linear.weight, module.linear.bias),
        )
    )

    def apply(images):
        kernels = kernel.transpose((2, 3, 1, 0))
        found = jax.lax.conv_general_dilated(
            images, kernels, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        a = (scale / jnp.sqrt(variance + 1e-5))[None, None, None, :]
        hidden = (found + (bias - mean)[None, None, None, :]) * a + shift[None, None, None, :]
        columns = jnp.tanh(hidden).mean(axis=1).transpose((0, 2, 1))
        return columns.reshape(columns.shape[0], -1) @ weight.T + offset[None, :]

    return apply


def in_torch(module, images, cotangent=None):
    """Return the module's logits and, with a cotangent, its images' gradient, by PyTorch alone."""
    was, dtype = module.training, next(module.parameters()).dtype
    module.eval()
    inputs = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).to(dtype).requires_grad_()
    logits = module(inputs)
    (gradient,) = torch.autograd.grad(logits, inputs, torch.ones_like(logits) if cotangent is None else cotangent)
    module.train(was)
    return logits.detach().numpy(), gradient.permute(0, 2, 3, 1).numpy()


def loss(target, images):
    return jax.nn.logsumexp(target(images), axis=1).sum()


def test_logits_and_gradients_are_pytorchs_own(net, model):
    logits, _ = in_torch(net, IMAGES)
    # PyTorch's own kernels round otherwise where memory is aligned or shared among threads in another way.
    np.testing.assert_allclose(model(IMAGES), logits, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(jax.jit(model)(IMAGES), logits, rtol=1e-5, atol=2e-6)
    gradient = jax.jit(jax.grad(loss, argnums=1))(model, IMAGES)
    _, expected = in_torch(net, IMAGES, torch.softmax(torch.from_numpy(logits), dim=1))
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    np.testing.assert_allclose(jax.grad(loss, argnums=1)(model, IMAGES), gradient, atol=1e-6)
    # It ran in evaluation mode, and was left as it had been.
    assert all(part.training for part in net.modules())
    assert net.norm.num_batches_tracked == 0
    assert all(value.grad is None and value.requires_grad for value in net.parameters())


def test_a_frozen_part_stays_in_evaluation_mode(net, model):
    net.norm.eval()
    model(IMAGES)
    assert net.training
    assert not net.norm.training


@pytest.mark.usefixtures("x64")
def test_gradients_agree_with_finite_differences_in_float64(net):
    target = jp.interop.torch_classifier(net.double())
    images = IMAGES[:2].astype(np.float64)
    gradient = jax.grad(loss, argnums=1)(target, images)
    assert gradient.dtype == np.float64
    value = jax.jit(loss)
    random = np.random.default_rng(3)
    for _ in range(3):
        direction = random.normal(size=images.shape)
        slope = (value(target, images + 1e-5 * direction) - value(target, images - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_module_computes_in_its_own_dtype_and_answers_in_that_of_the_images(dtype):
    module = make_net().to(dtype)
    target = jp.interop.torch_classifier(module)
    logits, gradient = target(IMAGES), jax.grad(loss, argnums=1)(target, IMAGES)
    assert logits.dtype == gradient.dtype == np.float32
    expected, _ = in_torch(make_net(), IMAGES)
    np.testing.assert_allclose(logits, expected, atol=1e-5 if dtype == torch.float64 else 0.1)
    assert np.isfinite(gradient).all()


def test_a_module_that_takes_channels_last_gets_them(model):
    other = jp.interop.torch_classifier(make_net(channels_first=False), channels_first=False)
    np.testing.assert_allclose(other(IMAGES), model(IMAGES), atol=1e-5)
    first, second = (jax.grad(loss, argnums=1)(target, IMAGES) for target in (other, model))
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_a_gradient_costs_one_forward_pass(net, model):
    compiled = jax.jit(jax.value_and_grad(loss, argnums=1))
    compiled(model, IMAGES)
    net.calls = 0
    jax.block_until_ready(compiled(model, IMAGES))
    assert net.calls == 1


def test_passes_in_flight_at_once_keep_their_own_images(net, model):
    parts = [np.float32(np.random.default_rng(seed).uniform(size=SHAPE)) for seed in range(4)]
    answers = [jax.vjp(model, part) for part in parts]
    for part, (logits, pull) in zip(parts, answers, strict=True):
        cotangent = torch.from_numpy(np.array(logits))
        np.testing.assert_allclose(pull(logits)[0], in_torch(net, part, cotangent)[1], atol=1e-6)


def test_vmap_stacks_the_images_and_a_jacobian_shares_one_pass(net, model):
    stacks = np.float32(np.random.default_rng(2).uniform(size=(2, 3, *SHAPE)))
    logits = jax.jit(jax.vmap(jax.vmap(model)))(stacks)
    expected = np.stack([[model(images) for images in row] for row in stacks])
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    gradients = jax.vmap(jax.vmap(jax.grad(functools.partial(loss, model))))(stacks)
    expected = np.stack([[jax.grad(loss, argnums=1)(model, images) for images in row] for row in stacks])
    np.testing.assert_allclose(gradients, expected, atol=1e-6)

    jacobian = jax.jit(jax.jacrev(lambda images: model(images).sum(axis=0)))
    jacobian(IMAGES)
    net.calls = 0
    found = jax.block_until_ready(jacobian(IMAGES))
    assert net.calls == 1
    for number in range(5):
        one = torch.zeros(6, 5)
        one[:, number] = 1
        np.testing.assert_allclose(found[number], in_torch(net, IMAGES, one)[1], atol=1e-6)


def test_cotangents_of_several_stacks_meet_their_own_images(model):
    stacks = np.float32(np.random.default_rng(2).uniform(size=(2, *SHAPE)))
    jacobian = jax.jacrev(lambda images: model(images).sum(axis=0))
    together = jax.jit(jax.vmap(jacobian))(stacks)
    np.testing.assert_allclose(together, np.stack([jacobian(images) for images in stacks]), atol=1e-6)


def test_new_weights_are_seen_at_once_and_compile_nothing(net, model):
    compiled = jax.jit(jax.grad(loss, argnums=1))
    before = compiled(model, IMAGES)
    with torch.no_grad():
        net.linear.weight.mul_(2)
    with count_compilations() as compilations:
        after = compiled(jp.interop.torch_classifier(net), IMAGES)
    assert compilations.count() == 0
    assert np.abs(after - before).max() > 1e-3
    logits, _ = in_torch(net, IMAGES)
    expected = in_torch(net, IMAGES, torch.softmax(torch.from_numpy(logits), dim=1))[1]
    np.testing.assert_allclose(after, expected, atol=1e-6)


def test_what_a_purifier_and_an_attack_see_is_the_same_function_as_in_jax(net, model):
    same_search(model, plain(net), GaussianSmoothing(sigma=0.7))


def test_an_expectation_over_draws_is_that_of_the_same_function_in_jax(net, model):
    average = jp.Expectation(samples=3, chunk=2)
    keys = jax.random.split(KEY, 6)

    def objective(target, images):
        return average(target, images, keys, lambda outputs: outputs[:, 0] * outputs[:, 1])[0].sum()

    ours, others = (
        jax.jit(jax.grad(objective, argnums=1))(Defended(target, GaussianNoise(sigma=0.2)), IMAGES)
        for target in (model, plain(net))
    )
    assert np.abs(others).max() > 1e-4
    np.testing.assert_allclose(ours, others, atol=1e-5)


def test_a_verdict_is_that_of_the_same_function_in_jax(net, model):
    images = np.float32(np.random.default_rng(5).uniform(size=(40, 8, 9, 3)))
    labels = in_torch(net, images)[0].argmax(axis=1).astype(np.int32)
    attack = jp.attacks.PGD(epsilon=8 / 255, steps=5)
    ours, others = (
        jp.attacks.verdict(attack, target, images, labels, KEY) for target in (model, as_target(plain(net)))
    )
    assert 0.1 < others.robust_accuracy < 0.9
    np.testing.assert_array_equal(ours.fooled, others.fooled)
    np.testing.assert_array_equal(ours.forwards, others.forwards)


@pytest.mark.slow
def test_an_evaluation_is_the_same_on_two_devices(model):
    images = np.float32(np.random.default_rng(5).uniform(size=(8, 8, 9, 3)))
    labels = np.asarray(model(images)).argmax(axis=1).astype(np.int32)
    arguments = {
        "attacks": ATTACK,
        "threat_models": ("blind", "full"),
        "batch_size": 4,
        "progress": False,
    }
    one, two = (
        jp.evaluate(model, {"smooth": GaussianSmoothing(sigma=0.7)}, (images, labels), devices=devices, **arguments)
        for devices in (1, 2)
    )
    assert len(one.records) >= 32
    assert repr(one.records) == repr(two.records)


STRESS = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np, torch
import jaxpurify as jp
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=4), torch.nn.Flatten(), torch.nn.Linear(256, 10))
model = jp.classifier(jp.interop.torch_classifier(net), name="net")
images = np.random.default_rng(0).uniform(size=(64, 32, 32, 3)).astype(np.float32)
labels = np.zeros(64, np.int32)
attack, key = jp.attacks.PGD(steps=10), jax.random.key(0)
first, second = (
    jp.attacks.run(attack, model, images, labels, key, devices=devices, batch_size=32) for devices in (1, 2)
)
np.testing.assert_array_equal(first.images, second.images)
looped = jax.jit(attack)(model, images, labels, key)
np.testing.assert_allclose(looped.loss, first.loss, atol=1e-4)
print("done")
"""


def test_large_batches_on_two_devices_and_in_device_loops_do_not_stall():
    """With ``jax.pure_callback``, images above 100 KB a device wait for one another here for ever."""
    command = [sys.executable, "-c", textwrap.dedent(STRESS)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.stdout == "done\n", ran.stderr[-2000:]


def test_it_is_a_classifier_that_says_that_it_calls_back(net):
    names = ("a", "b", "c", "d", "e")
    target = jp.interop.torch_classifier(net, image_shape=[8, 9, 3], class_names=list(names), name="mine")
    assert (target.name, target.image_shape, target.class_names) == ("mine", (8, 9, 3), names)
    assert jp.interop.torch_classifier(net).name == "Net"
    assert isinstance(target, jp.Classifier)
    assert as_target(target) is target
    assert attribute(classifier(target, name="other"), "calls_back")
    assert attribute(Defended(target, GaussianSmoothing(sigma=1.0)), "calls_back")
    assert jax.tree.leaves(target) == []
    with pytest.raises(ValueError, match=r"mine takes images of shape \(8, 9, 3\), got \(8, 8, 3\)"):
        target(IMAGES[:, :, :8])


class Returns(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = torch.nn.Parameter(torch.ones(3, 5))

    def forward(self, images):
        return self.function(images.mean(dim=(2, 3)) @ self.weight)


REFUSED = {
    "a map": (
        lambda logits: logits[:, :, None, None],
        r"Returns must return logits of shape \(2, classes\), got \(2, 5",
    ),
    "no tensor": (lambda logits: {"logits": logits}, r"Returns must return logits of shape \(2, classes\), got dict"),
    "one image": (lambda logits: logits.sum(dim=0), r"Returns must return logits of shape \(2, classes\), got \(5,\)"),
    "an error": (
        lambda logits: logits @ logits,
        r"Returns cannot take \(2, 3, 8, 9\) images of torch.float32 on cpu: ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_module_that_does_not_fit_is_refused_in_one_sentence(name):
    function, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence) as raised:
        jp.interop.torch_classifier(Returns(function), image_shape=(8, 9, 3))
    assert "\n" not in str(raised.value)
    late = jp.interop.torch_classifier(Returns(function))
    with pytest.raises(ValueError, match=sentence):
        jp.attacks.run(ATTACK, late, IMAGES, LABELS, KEY)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda logits: logits.detach(), "Returns returned logits without a gradient: expected PyTorch operations"),
        (lambda logits: torch.nn.functional.one_hot(logits.argmax(1), 5), "FGSM follows gradients, got a target that"),
        (lambda logits: logits == logits.max(1, keepdim=True).values, "FGSM follows gradients, got a target that"),
    ],
    ids=["detached", "one-hot", "truth"],
)
def test_a_module_without_gradients_serves_attacks_that_need_none(function, sentence):
    model = jp.interop.torch_classifier(Returns(function), image_shape=(8, 9, 3))
    found = jp.attacks.run(jp.attacks.RandomNoise(epsilon=0.5, draws=20), model, IMAGES, LABELS, KEY)
    said = np.asarray(model(jnp.asarray(found.images))).argmax(axis=1)
    np.testing.assert_array_equal(found.success, said != LABELS)
    with pytest.raises(ValueError, match=sentence):
        jp.attacks.run(jp.attacks.FGSM(epsilon=0.1), model, IMAGES, LABELS, KEY)


def test_a_module_on_another_device_is_refused(net):
    with pytest.raises(ValueError, match=r'Net is on cpu, expected meta: move it with module.to\("meta"\)'):
        jp.interop.torch_classifier(net, device="meta")
    with pytest.raises(ValueError, match=r"Mixed cannot take \(2, 3, 8, 9\) images of torch.float32 on meta: "):
        jp.interop.torch_classifier(Mixed(), image_shape=(8, 9, 3))


class Mixed(Net):
    """A module that is half elsewhere."""

    def __init__(self):
        super().__init__()
        self.convolution.to("meta")


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got function: put a function into a module"):
        jp.interop.torch_classifier(lambda images: images)
    with pytest.raises(TypeError, match="got the class Net"):
        jp.interop.torch_classifier(Net)


def test_a_failure_while_it_runs_says_so(net, model):
    compiled = jax.jit(model)
    compiled(IMAGES)
    net.linear = torch.nn.Linear(28, 7)
    with pytest.raises(Exception, match=r"Net returned shape \(6, 7\) where \(6, 5\) was compiled: make a new module"):
        jax.block_until_ready(compiled(IMAGES))
