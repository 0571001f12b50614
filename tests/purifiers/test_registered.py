"""Every registered purifier keeps the contract."""

import pytest

from jaxpurify.purifiers import registry
from jaxpurify.testing import check_purifier


@pytest.mark.parametrize("name", sorted(registry.names()))
def test_a_registered_purifier_keeps_the_contract(name):
    check_purifier(registry.make(name))
