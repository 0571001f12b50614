import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify.models import purifier, sweep
from jaxpurify.pytrees import Scalar, concrete, pytree_dataclass, static


@pytree_dataclass
class Blend:
    amount: float = 0.5
    inner: Any = None
    mode: str = static("linear")
    table: tuple = static(factory=lambda: (1, 2))

    def check(self):
        if not 0 <= self.amount <= 1:
            raise ValueError("amount must be in [0, 1]")


def test_numbers_are_leaves_and_static_fields_are_structure():
    leaves, structure = jax.tree.flatten(Blend(amount=0.25, inner={"scale": 2.0}))
    assert leaves == [0.25, 2.0]
    assert structure == jax.tree.structure(Blend(amount=1.0, inner={"scale": 3.0}))
    assert structure != jax.tree.structure(Blend(amount=0.25, inner={"scale": 2.0}, mode="cubic"))


def test_paths_name_the_fields():
    (path, _), *_ = jax.tree_util.tree_leaves_with_path(Blend(inner=Blend(amount=0.1)))
    assert jax.tree_util.keystr(path) == ".amount"


def test_mapping_keeps_structure_and_class():
    doubled = jax.tree.map(lambda leaf: leaf * 2, Blend(amount=0.4, inner=Blend(amount=0.3, mode="cubic")))
    assert isinstance(doubled, Blend)
    assert (doubled.amount, doubled.inner.amount, doubled.inner.mode) == (0.8, 0.6, "cubic")
    assert doubled.table == (1, 2)


def test_construction_checks_and_unflattening_never_does():
    with pytest.raises(ValueError, match="amount must be in"):
        Blend(amount=2.0)
    structure = jax.tree.structure(Blend())
    placeholder = object()
    assert jax.tree.unflatten(structure, [placeholder]).amount is placeholder
    assert jax.tree.map(lambda leaf: leaf + 5, Blend()).amount == 5.5


def test_replacing_a_field_checks_again():
    with pytest.raises(ValueError, match="amount must be in"):
        dataclasses.replace(Blend(), amount=-1.0)


def test_instances_are_frozen_and_built_by_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Blend().amount = 0.1
    with pytest.raises(TypeError):
        Blend(0.1)


def test_named_class_attributes_are_no_fields():
    def noise():
        class Noise:
            random: bool = True
            level: float = 0.1

        return Noise

    cls = pytree_dataclass(noise(), class_attributes=("random",))
    assert [field.name for field in dataclasses.fields(cls)] == ["level"]
    assert cls.random is True
    assert cls().random is True


def test_a_static_field_without_default_is_required():
    @pytree_dataclass
    class Crop:
        size: int = static()

    assert Crop(size=3).size == 3
    with pytest.raises(TypeError):
        Crop()


def test_concrete_tells_numbers_from_tracers():
    seen = []

    @jax.jit
    def look(blend):
        seen.append(concrete(blend))
        return blend.amount

    look(Blend())
    assert seen == [False]
    assert concrete(Blend(inner=jnp.ones(2)))
    assert concrete("a string")


@purifier
class Typed:
    amount: Scalar = 0.5
    maybe: Scalar | None = 0.5
    share: float = 0.5
    count: int = static(3)
    flag: bool = static(False)
    word: str = static("nearest")

    def __call__(self, images, key=None):
        return images


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"amount": "3"}, TypeError, "amount of Typed must be a number, got '3'"),
        ({"amount": None}, TypeError, "amount of Typed must be a number, got None"),
        ({"share": True}, TypeError, "share of Typed must be a number, got True"),
        ({"count": True}, TypeError, "count of Typed must be a number, got True"),
        ({"flag": "no"}, TypeError, "flag of Typed must be True or False, got 'no'"),
        ({"word": ["nearest"]}, TypeError, "word of Typed must be a string, got list"),
        ({"amount": np.array([0.1, 0.2])}, ValueError, r"amount of Typed must be a scalar, got shape \(2,\)"),
    ],
)
def test_a_purifier_refuses_values_of_another_type(fields, error, words):
    with pytest.raises(error, match=words):
        Typed(**fields)


def test_a_purifier_takes_numbers_of_any_kind():
    for number in (1, 0.25, np.float32(0.25), np.array(0.25), jnp.array(0.25)):
        Typed(amount=number, maybe=None, share=number)
    assert jax.vmap(lambda p: p.amount * 2)(sweep(Typed(), amount=jnp.arange(3.0))).shape == (3,)
