import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxpurify
from jaxpurify import attacks
from jaxpurify.classifiers import of_nnx
from jaxpurify.evaluation.identity import describe, fingerprint
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
