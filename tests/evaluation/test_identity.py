import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxpurify
from jaxpurify import attacks
from jaxpurify.classifiers import of_nnx
from jaxpurify.evaluation.identity import describe, fingerprint, identify
from jaxpurify.models import Sequential, classifier
from jaxpurify.purifiers import NCIS, BitDepth, GaussianSmoothing, Identity


def closing_over(value):
    return lambda outputs, reference: outputs[:, 0] * value


def test_a_purifier_is_described_by_its_numbers():
    assert describe(Identity()) == "Identity()"
    assert "sigma=0.5, iterations=2.0" in describe(GaussianSmoothing(sigma=0.5, iterations=2.0))
    assert describe(BitDepth(bits=3.0)) != describe(BitDepth(bits=4.0))
    assert describe(Sequential(BitDepth(bits=3.0), Identity())) != describe(Sequential(Identity(), BitDepth(bits=3.0)))


def test_functions_differ_by_code_and_by_what_they_close_over():
    assert describe(closing_over(2)) == describe(closing_over(2))
    assert describe(closing_over(2)) != describe(closing_over(3))
    assert describe(closing_over(jnp.ones(3))) != describe(closing_over(jnp.zeros(3)))
    assert describe(lambda x: x + 1) != describe(lambda x: x + 2)
    assert describe(functools.partial(optax.sgd, momentum=0.5)) != describe(functools.partial(optax.sgd, momentum=0.9))
    assert describe(lambda x, factor=2: x * factor) != describe(lambda x, factor=3: x * factor)


def test_long_descriptions_still_differ():
    first, second = np.arange(3.0), np.arange(3.0) + 1e-9
    purifiers = [Sequential(*[GaussianSmoothing(sigma=1.0)] * 20, BitDepth(bits=bits)) for bits in (3.0, 4.0)]
    assert len({describe(purifier) for purifier in purifiers}) == 2
    assert max(len(describe(purifier)) for purifier in purifiers) < 150
    assert describe({"a": [first] * 99}) != describe({"a": [second] * 99})


def test_what_contains_itself_is_described():
    loop = []
    loop.append(loop)
    assert describe(loop) == "(…)"


def test_fingerprint_sees_numbers_and_where_they_stand():
    tree = {"a": np.zeros(3, np.float32), "b": (1.0, jax.random.key(0))}
    assert fingerprint(tree) == fingerprint({"a": jnp.zeros(3, jnp.float32), "b": (1.0, jax.random.key(0))})
    for other in (
        {"a": np.zeros(3, np.float32), "b": (1.0, jax.random.key(1))},
        {"a": np.zeros(3, np.float16), "b": (1.0, jax.random.key(0))},
        {"c": np.zeros(3, np.float32), "b": (1.0, jax.random.key(0))},
        {"a": np.zeros((1, 3), np.float32), "b": (1.0, jax.random.key(0))},
    ):
        assert fingerprint(other) != fingerprint(tree)


def test_fingerprint_sees_weights_of_a_classifier():
    def apply(weights, images):
        return images.mean(axis=(1, 2)) @ weights

    one, other = (classifier(apply, np.full((3, 2), value, np.float32)) for value in (0.5, 0.25))
    assert fingerprint(one) != fingerprint(other)


class Scaled(nnx.Module):
    def __init__(self, power):
        self.factor, self.power = nnx.Param(jnp.float32(0.5)), power

    def __call__(self, images):
        return self.factor[...] * images**self.power


def test_networks_of_equal_weights_differ_by_what_is_not_a_weight():
    square, again, cube = (of_nnx(Scaled(power), name="network") for power in (2, 2, 3))
    assert fingerprint(square) == fingerprint(cube)
    assert describe(square) == describe(again)
    assert describe(square) != describe(cube)
    assert describe(NCIS(network=square)) != describe(NCIS(network=cube))


def with_backward_pass(factor):
    @jax.custom_vjp
    def function(images):
        return images

    function.defvjp(lambda images: (images, None), lambda _, cotangents: (factor * cotangents,))
    return function


def with_tangents(factor):
    @jax.custom_jvp
    def function(images):
        return images

    function.defjvps(lambda tangent, answer, images: factor * tangent)
    return function


def with_batching(factor):
    @jax.custom_batching.custom_vmap
    def function(images):
        return images

    @function.def_vmap
    def rule(size, batched, images):
        return factor * images, batched[0]

    return function


def with_flax_backward_pass(factor):
    function = nnx.custom_vjp(lambda images: images)
    function.defvjp(lambda images: (images, None), lambda _, cotangents: (factor * cotangents,))
    return function


def with_attribute(factor):
    def function(images):
        return images * function.factor

    function.factor = factor
    return function


class Hidden(nnx.Module):
    def __init__(self, factor):
        self.weights, self._factor = nnx.Param(jnp.ones(3)), factor


@jax.tree_util.register_pytree_node_class
class Registered:
    def __init__(self, factor):
        self.weights, self.factor = np.ones(3), factor

    def tree_flatten(self):
        return (self.weights,), self.factor

    @classmethod
    def tree_unflatten(cls, factor, weights):
        made = cls(factor)
        (made.weights,) = weights
        return made


class Slotted:
    __slots__ = ("__factor",)

    def __init__(self, factor):
        self.__factor = factor


class Named(dict):
    pass


KINDS = {
    "a backward pass of its own": with_backward_pass,
    "jitted": lambda factor: jax.jit(with_backward_pass(factor)),
    "tangents of its own": with_tangents,
    "batching of its own": with_batching,
    "a backward pass through Flax": with_flax_backward_pass,
    "an attribute of a function": with_attribute,
    "NumPy's vectorize": lambda factor: np.vectorize(lambda value: factor * value),
    "a module's private number": Hidden,
    "what a function closes over": lambda factor: functools.partial(Hidden.__init__, Hidden(factor)),
    "a registered node": Registered,
    "a slot": Slotted,
    "a kind of dictionary": lambda factor: Named(factor=factor),
    "another special method": lambda factor: type("Kind", (), {"__getitem__": lambda _, index: factor})(),
    "a bound special method": lambda factor: factor.__mul__,
}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_changes_what_is_computed_is_seen(kind):
    make = KINDS[kind]
    assert identify(make(2.0)) == identify(make(2.0))
    assert identify(make(2.0))[0] != identify(make(3.0))[0]


def hooked(factor, kind):
    import torch

    module = torch.nn.Sequential(torch.nn.Flatten())
    getattr(module[0], f"register_{kind}_hook")(lambda *arguments: factor * arguments[-1][0])
    return module


def holding(factor, kind):
    import torch

    module = torch.nn.Flatten()
    setattr(module, *{"number": ("_factor", factor), "tensor": ("_hidden", [torch.full((2,), factor)])}[kind])
    return module


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        *((hooked, kind) for kind in ("forward", "forward_pre", "full_backward", "full_backward_pre")),
        *((holding, kind) for kind in ("number", "tensor")),
    ],
)
def test_hooks_and_private_attributes_of_pytorch_modules_are_seen(make, kind):
    pytest.importorskip("torch")
    assert identify(make(2.0, kind)) == identify(make(2.0, kind))
    assert identify(make(2.0, kind))[0] != identify(make(3.0, kind))[0]


SCRIPT = """
import numpy as np, optax, functools
from flax import nnx
from jaxpurify import attacks
from jaxpurify.classifiers import of_nnx
from jaxpurify.evaluation.identity import describe
weights = np.arange(3.0)
def loss(outputs, reference):
    return (outputs * weights).sum(axis=1) if str(reference) in {"one", "two", "three"} else outputs[:, 0]
def near(value):
    return lambda outputs, reference: outputs[:, 0] > value
update = functools.partial(optax.sgd, momentum=0.5)
print(describe(attacks.PGD(loss=loss, success=near(np.float32(0.5)), update=update, transformation=np.clip)))
print(describe(of_nnx(nnx.Linear(1, 1, rngs=nnx.Rngs(0)))))
print(describe(nnx.Linear(1, 1, rngs=nnx.Rngs(0))))
import jax
rule = jax.custom_vjp(near(2.0))
rule.defvjp(near(3.0), near(4.0))
print(describe([rule, jax.jit(rule), nnx.jit(near(2.0)), np.vectorize(near(2.0)), type("Kind", (dict,), {})(a=1)]))
"""


def test_descriptions_are_the_same_in_every_process():
    folder = os.path.dirname(os.path.dirname(jaxpurify.__file__))
    said = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
    assert "0x" not in said.pop()


def test_the_address_of_an_object_is_left_out():
    class Plain:
        pass

    assert describe(Plain()) == describe(Plain())
    assert "0x" not in describe(attacks.PGD(loss=closing_over(Plain())))
