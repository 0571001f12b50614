import dataclasses

import pytest

from jaxpurify import specification
from jaxpurify.models import Sequential
from jaxpurify.purifiers import BitDepth, Identity, registry
from jaxpurify.pytrees import pytree_dataclass, static


@pytree_dataclass
class Everything:
    real: float = 0.5
    count: int = static(3)
    flag: bool = static(False)
    word: str = static("linf")
    maybe: float | None = None
    levels: int | None = static(None)
    tree: tuple = static(())


MAKE = {"everything": Everything}


def make(text):
    return specification.make(text, MAKE, kind="thing")


@pytest.mark.parametrize(
    ("text", "value"), [("8", 8), ("-3", -3), ("0.5", 0.5), ("8/255", 8 / 255), ("1e-3", 1e-3), (".5/2", 0.25)]
)
def test_numbers_and_fractions_are_read(text, value):
    assert specification.number(text) == value
    assert type(specification.number(text)) is type(value)


def test_none_is_no_value_for_a_field_that_may_do_without_one():
    assert make("everything:maybe=0.5").maybe == 0.5
    assert make("everything:maybe=none").maybe is None
    assert make("everything:levels=2").levels == 2
    assert make("everything:levels=none").levels is None
    with pytest.raises(ValueError, match=r"everything:levels must be an integer, got '0\.5'"):
        make("everything:levels=0.5")
    with pytest.raises(ValueError, match="everything:real: expected a number such as"):
        make("everything:real=none")


@pytest.mark.parametrize("text", ["", "eight", "8/", "/255", "8/0", "1/2/3"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match="expected a number such as"):
        specification.number(text)


def test_fields_that_can_be_written_are_listed():
    assert specification.fields(Everything) == {
        "real": 0.5,
        "count": 3,
        "flag": False,
        "word": "linf",
        "maybe": None,
        "levels": None,
    }


def test_a_text_constructs_what_it_names():
    assert dataclasses.asdict(make("everything")) == dataclasses.asdict(Everything())
    built = make(" everything:real=8/255,count=7,flag=True,word=l2,maybe=2 ")
    assert (built.real, built.count, built.flag, built.word, built.maybe) == (8 / 255, 7, True, "l2", 2)


def test_a_whole_number_becomes_real_where_the_field_is():
    assert isinstance(make("everything:real=1").real, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "unknown thing 'nothing', expected one of: everything"),
        ("", "unknown thing ''"),
        (
            "everything:size=3",
            "everything does not understand 'size=3', expected field=value with fields among: real=0.5",
        ),
        ("everything:tree=3", "does not understand"),
        ("everything:real", "does not understand 'real'"),
        ("everything:count=0.5", "everything:count must be an integer, got '0.5'"),
        ("everything:real=x", "everything:real: expected a number"),
        ("everything:flag=1", "everything:flag must be true or false, got '1'"),
    ],
)
def test_a_text_that_fits_nothing_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        make(text)


def test_purifiers_are_made_by_name_and_joined_by_a_plus():
    assert isinstance(registry.make("none"), Identity)
    assert registry.make("bit-depth:bits=2").bits == 2
    chain = registry.make("bit-depth:bits=2+none")
    assert isinstance(chain, Sequential)
    assert [type(stage) for stage in chain.stages] == [BitDepth, Identity]


def test_a_wrong_purifier_is_refused_by_its_own_check():
    with pytest.raises(ValueError, match="bits must be from 1 to 8, got 9"):
        registry.make("bit-depth:bits=9")
    known = ", ".join(sorted(registry.names()))
    with pytest.raises(ValueError, match=f"unknown purifier 'blur', expected one of: {known}"):
        registry.make("none+blur")
