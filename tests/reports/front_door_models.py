"""One linear classifier as every library writes it, and models that are no classifiers: rows of a table."""

import collections
import functools
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict
from flax.training.train_state import TrainState

import jaxpurify as jp

torch = pytest.importorskip("torch")

IMAGES = np.random.default_rng(1).uniform(0.2, 0.8, (3, 4, 4, 3)).astype(np.float32)
WEIGHTS = np.random.default_rng(0).normal(size=(48, 5)).astype(np.float32)
LOGITS = IMAGES.astype(np.float64).reshape(3, 48) @ WEIGHTS.astype(np.float64)
LABELS = LOGITS.argmax(axis=1).astype(np.int32)
KEY = jax.random.key(0)


def linear(images):
    return images.reshape(len(images), -1) @ jnp.asarray(WEIGHTS, images.dtype)


class Net(nnx.Module):
    """Dropout before a linear layer; with ``own_flag``, dropout that no mode switches off."""

    def __init__(self, rngs, *, own_flag=False):
        self.dropout, self.linear = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(48, 5, rngs=rngs)
        self.linear.kernel[...] = jnp.asarray(WEIGHTS)
        self.own_flag = own_flag

    def __call__(self, images):
        hidden = self.dropout(images.reshape(len(images), -1), deterministic=False if self.own_flag else None)
        return self.linear(hidden)


def called(module, images):
    return module(images)


class Watched(Net):
    """One that notes what it saw, which is no part of what it computes with."""

    def __call__(self, images):
        self.seen = nnx.Intermediate(images)
        return super().__call__(images)


def called_before(module):
    module(jnp.asarray(IMAGES))
    return module


class Linen(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        hidden = images.reshape(len(images), -1)
        hidden = nn.BatchNorm(use_running_average=not train, epsilon=0.0)(hidden)
        return nn.Dense(5)(hidden)


class Equinox(eqx.Module):
    dropout: eqx.nn.Dropout
    linear: eqx.nn.Linear
    function: Any

    def __call__(self, image, key=None):
        return self.linear(self.function(self.dropout(jnp.ravel(image), key=key)))


class Stateful(eqx.Module):
    """A layer that counts its calls, behind dropout."""

    dropout: eqx.nn.Dropout
    linear: eqx.nn.Linear
    calls: eqx.nn.StateIndex

    def __call__(self, image, state):
        called = state.get(self.calls)
        return self.linear(self.dropout(jnp.ravel(image))), state.set(self.calls, called + 1)


class Output(dict):
    """As the models of some libraries return it: a mapping, and attributes."""

    __getattr__ = dict.__getitem__


def _equinox_linear():
    layer = eqx.nn.Linear(48, 5, use_bias=False, key=KEY)
    return eqx.tree_at(lambda part: part.weight, layer, jnp.asarray(WEIGHTS.T))


def _equinox():
    return Equinox(eqx.nn.Dropout(0.5), _equinox_linear(), jax.nn.relu)


@functools.cache
def stateful():
    return eqx.nn.make_with_state(
        lambda: Stateful(eqx.nn.Dropout(0.5), _equinox_linear(), eqx.nn.StateIndex(jnp.zeros((), jnp.int32)))
    )()


@functools.cache
def linen_variables():
    variables = jax.jit(Linen().init)(KEY, IMAGES)
    return variables | {
        "params": variables["params"] | {"Dense_0": {"kernel": WEIGHTS, "bias": np.zeros(5, np.float32)}}
    }


TRANSFORMED = hk.transform(lambda images: hk.Linear(5)(images.reshape(len(images), -1)))
HAIKU = {"linear": {"w": WEIGHTS, "b": np.zeros(5, np.float32)}}


def torch_module(outputs=lambda logits: logits):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.Parameter(torch.from_numpy(WEIGHTS.copy()))

        def forward(self, images):
            return outputs(images.reshape(len(images), -1) @ self.weights)

    return Model()


def torch_classifier(outputs=lambda logits: logits):
    return jp.interop.torch_classifier(torch_module(outputs), channels_first=False, name="model")


# What is taken. Every one has the logits of `LOGITS`.
RIGHT = {
    "function": lambda: linear,
    "function of variables": lambda: jp.classifier(lambda weights, x: x.reshape(len(x), -1) @ weights, WEIGHTS),
    "variables of PyTorch": lambda: jp.classifier(lambda w, x: x.reshape(len(x), -1) @ w, torch.from_numpy(WEIGHTS)),
    "nnx in training mode": lambda: Net(nnx.Rngs(0)),
    "nnx called before": lambda: called_before(Watched(nnx.Rngs(0))),
    "nnx as variables": lambda: jp.classifier(lambda module, x: module(x), Net(nnx.Rngs(0))),
    "linen with variables": lambda: jp.classifier(Linen(), linen_variables()),
    "linen with frozen variables": lambda: jp.classifier(Linen(), FrozenDict(linen_variables())),
    "linen's apply": lambda: jp.classifier(Linen().apply, linen_variables()),
    "linen bound": lambda: Linen().bind(linen_variables()),
    "haiku": lambda: jp.classifier(hk.without_apply_rng(TRANSFORMED).apply, HAIKU),
    "equinox in training mode": lambda: jp.classifier(_equinox(), batched=False),
    "equinox as variables": lambda: jp.classifier(lambda module, x: jax.vmap(module)(x), _equinox()),
    "equinox with state": lambda: jp.classifier(lambda both, x: both[0](x, both[1])[0], stateful(), batched=False),
    "PyTorch wrapped": torch_classifier,
}

# What is not a model: refused as soon as it is given. The words that the sentence holds.
NO_MODELS = {
    "class of nnx": (lambda: Net, "got the class Net: write Net(...)"),
    "class of a purifier": (lambda: jp.purifiers.BitDepth, "got the class BitDepth: write BitDepth()"),
    "class of an attack": (lambda: jp.attacks.PGD, "got the class PGD: write PGD()"),
    "attack": (lambda: jp.attacks.PGD(), "PGD must be callable with (images)"),
    "None": (lambda: None, "got NoneType"),
    "name": (lambda: "cifar-resnet20", "got str"),
    "array": (lambda: WEIGHTS, "got ndarray"),
    "linen without variables": (Linen, "got the Flax Linen module Linen without its variables"),
    "linen's apply without variables": (lambda: Linen().apply, "got the Flax Linen module Linen without its variables"),
    "haiku's pair": (lambda: TRANSFORMED, "got haiku.Transformed: give jaxpurify.classifier its apply function"),
    "PyTorch": (torch_module, "wrap a classifier with jaxpurify.interop.torch_classifier(module)"),
    "equinox with state, bare": (lambda: stateful()[0], "takes (image, state)"),
    "two arguments": (lambda: lambda images, labels: images, "takes (images, labels)"),
    "no argument": (lambda: lambda: 0, "takes ()"),
    "training state": (
        lambda: TrainState.create(apply_fn=Linen().apply, params={}, tx=optax.sgd(0.1)),
        'got flax.TrainState: give jaxpurify.classifier its function and weights, e.g. (state.apply_fn, {"params"',
    ),
}

# What `jp.classifier` refuses of variables.
NO_VARIABLES = {
    "training state": (
        lambda: (Linen(), TrainState.create(apply_fn=Linen().apply, params={}, tx=optax.sgd(0.1))),
        'got a flax.TrainState: pass {"params": state.params}',
    ),
    "weights alone": (lambda: (Linen().apply, linen_variables()["params"]), 'pass {"params": variables}'),
    "for nnx": (lambda: (Net(nnx.Rngs(0)), {}), "variables must be left out for a Flax NNX module"),
    "haiku that wants a key": (lambda: (TRANSFORMED.apply, HAIKU), "use haiku.without_apply_rng(transformed).apply"),
}

# What fails when it is called, or returns no logits.
_PAIR = collections.namedtuple("_PAIR", "scores features")
NO_LOGITS = {
    "tuple": (lambda: lambda x: (linear(x), x), "tuple of 2: take the logits out, e.g. lambda images: "),
    "list": (lambda: lambda x: [linear(x)], "list of 1: take the logits out"),
    "named tuple": (lambda: lambda x: _PAIR(linear(x), x), "of scores, features: take the logits out"),
    "mapping": (lambda: lambda x: {"out": linear(x)}, "dict of 'out': take the logits out"),
    "output object": (lambda: lambda x: Output(logits=linear(x)), "take the logits out, e.g. lambda"),
    "None": (lambda: lambda x: None, "got None: does the function end without return?"),
    "text": (lambda: lambda x: "cat", "got str"),
    "objects": (lambda: lambda x: np.array([[None, None]] * 3), "got object"),
    "number": (lambda: lambda x: 1.0, "got float"),
    "mean": (lambda: lambda x: linear(x).mean(), "a single number"),
    "decisions": (lambda: lambda x: linear(x)[:, 0], "one logit per image?"),
    "one logit": (lambda: lambda x: linear(x)[:, :1], "jnp.concatenate([jnp.zeros_like(z), z], axis=-1)"),
    "no class": (lambda: lambda x: linear(x)[:, :0], "there are no classes"),
    "maps": (lambda: lambda x: x, "maps.mean((1, 2))"),
    "wrong batch": (lambda: lambda x: linear(x)[:1], "one row for each of 3 images"),
    "one row": (lambda: lambda x: linear(x)[0], "pass batched=False"),
    "classes first": (lambda: lambda x: linear(x).T, "classes first? transpose it"),
    "complex": (lambda: lambda x: linear(x).astype(jnp.complex64), "complex numbers have no order"),
    "nnx with its own flag": (lambda: Net(nnx.Rngs(0), own_flag=True), "is it in training mode?"),
    "function over nnx": (lambda: functools.partial(called, Net(nnx.Rngs(0))), "is it in training mode?"),
    "linen in training mode": (
        lambda: jp.classifier(functools.partial(Linen().apply, train=True), linen_variables()),
        "is it in training mode?",
    ),
    "linen with mutable": (
        lambda: jp.classifier(functools.partial(Linen().apply, train=True, mutable=["batch_stats"]), linen_variables()),
        "tuple of 2",
    ),
    "linen without statistics": (
        lambda: jp.classifier(Linen(), {"params": linen_variables()["params"]}),
        'cannot be called with these variables: Tried to access "mean"',
    ),
    "equinox in batches": (_equinox, "pass batched=False"),
    "PyTorch in a function": (lambda: lambda x: torch_module()(x), "jaxpurify.interop.torch_classifier"),
    "PyTorch tuple": (lambda: torch_classifier(lambda z: (z, z)), "tuple of 2: take the logits out, in a module"),
    "PyTorch mapping": (lambda: torch_classifier(lambda z: {"logits": z}), "dict of 'logits': take the logits out"),
    "PyTorch one logit": (lambda: torch_classifier(lambda z: z[:, :1]), "torch.cat([torch.zeros_like(z), z], dim=-1)"),
}  # fmt: skip

# What works at a call and not in a compiled program.
NO_TRACE = {
    "NumPy": lambda x: np.asarray(x).reshape(len(x), -1) @ WEIGHTS,
    "branch": lambda x: linear(x) if x.mean() > 0 else -linear(x),
}

# Decisions, which are legal: attacks that need gradients refuse them, the others do not.
DECISIONS = {
    "int32": lambda x: jax.nn.one_hot(linear(x).argmax(axis=1), 5, dtype=jnp.int32),
    "bool": lambda x: linear(x) == linear(x).max(axis=1, keepdims=True),
}
