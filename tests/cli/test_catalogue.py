"""``jaxpurify list``."""

from jaxpurify import attacks, networks, purifiers
from jaxpurify.cli.catalogue import THREAT_MODELS, entries
from jaxpurify.evaluation.threat_models import LADDER


def test_everything_with_a_name_is_listed(cli):
    code, out, err = cli("list")
    assert (code, err) == (0, "")
    for name in (*purifiers.names(), *attacks.names(), *networks.names(), *LADDER, "photos"):
        assert f"\n  {name}" in out
    assert max(len(line) for line in out.splitlines()) <= 100


def test_what_is_listed_can_be_typed():
    for classes, make in ((purifiers.names(), purifiers.make), (attacks.names(), attacks.make)):
        for typed in entries(classes):
            assert type(make(typed)) is classes[typed.partition(":")[0]]


def test_every_threat_model_is_explained():
    assert tuple(THREAT_MODELS) == (*LADDER, "blackbox", "adaptive")


def test_traits_are_those_of_the_defaults():
    found = {typed.partition(":")[0]: text for typed, text in entries(purifiers.names()).items()}
    for name in purifiers.names():
        made = purifiers.make(name)
        assert made.random == ("random" in found[name].rpartition("(")[2]), name
        assert made.changes_size == found[name].endswith("changes the size)"), name
