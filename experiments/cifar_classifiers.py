"""Classifiers of CIFAR-10 from other people's PyTorch checkpoints, as experiments take them."""

import tempfile
from pathlib import Path
from typing import Any

import jaxpurify as jp
from jaxpurify.networks import convert


def load(name: str, checkpoint: Path) -> Any:
    """Convert a checkpoint, and load the registered classifier of that name with its weights."""
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "weights.safetensors"
        convert(checkpoint, weights)
        return jp.networks.load_classifier(name, weights=weights)
