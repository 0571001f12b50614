"""Options that several commands share."""

import pytest

from jaxpurify.cli.options import purifiers, sizes
from jaxpurify.models import Sequential


def test_purifiers_are_named_by_their_text_or_as_asked():
    made = purifiers(["bit-depth:bits=2", "gs=gaussian-smoothing:sigma=2", "both=bit-depth+gaussian-smoothing"])
    assert list(made) == ["bit-depth:bits=2", "gs", "both"]
    assert made["gs"].sigma == 2.0
    assert isinstance(made["both"], Sequential)


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="given twice"):
        purifiers(["a=bit-depth", "a=gaussian-smoothing"])


def test_sizes_are_fractions_or_numbers():
    assert sizes(["8/255", "0.5", "1"]) == (8 / 255, 0.5, 1.0)
