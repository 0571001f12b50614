"""Comparisons with other people's libraries, left out where these are not installed."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

# The helpers of this folder (pairs, torch_networks, torchvision_stub), which benchmarks import too.
sys.path.insert(0, str(Path(__file__).parent))

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["pairs.py", "torch_networks.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder as a comparison with another library."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.oracle)


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    """PyTorch, on one thread, as a worker has one core."""
    module = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jaxpurify[torch]'")
    module.set_num_threads(1)
    return module


@pytest.fixture(scope="session")
def torchvision(torch: ModuleType) -> ModuleType:
    """The module torchvision, importable beside any build of PyTorch."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    from torchvision_stub import import_torchvision

    return import_torchvision()


@pytest.fixture(scope="session")
def torchattacks(torchvision: ModuleType) -> ModuleType:
    """The module torchattacks."""
    return pytest.importorskip("torchattacks", reason="torchattacks is not installed")
