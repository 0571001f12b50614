"""torchvision, importable beside any build of PyTorch: tests and benchmarks compare with its Python parts only.

Its wheels are compiled for one build of PyTorch. Beside another (the CPU build, say) its compiled operators are absent,
and it cannot be imported since it describes some of them to PyTorch. Once they are declared, its transforms and models
work, and so does what imports it (timm, torchattacks).
"""

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_declared: list[Any] = []  # PyTorch forgets what it was told by a library that nobody holds.


def import_torchvision() -> ModuleType:
    """Import torchvision, declaring its compiled operators to PyTorch first where they cannot be loaded.

    Returns:
        The module torchvision.

    Raises:
        ImportError: if torchvision or PyTorch is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    _declare_operators()
    return importlib.import_module("torchvision")


def _declare_operators() -> None:
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ImportError("torchvision is not installed")
    source = (Path(spec.origin).parent / "_meta_registrations.py").read_text()
    library = torch.library.Library("torchvision", "DEF")
    for operator in sorted(set(re.findall(r'register_fake\("torchvision::(\w+)"\)', source))):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
