"""Training super-resolution networks on pairs made of any photographs."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxpurify.images import resize
from jaxpurify.networks.borders import check_border
from jaxpurify.networks.edsr import BORDERS, EDSR
from jaxpurify.networks.sesr import SESR
from jaxpurify.training.patch_task import as_float, measured_psnr
from jaxpurify.training.pictures import Examples, patches, pictures, pyramid, reduced
from jaxpurify.training.task import Batch, Task

NETWORKS = ("sesr", "edsr-baseline", "edsr-large")
Pairs = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuperResolution(Task):
    """Learn to enlarge: the mean absolute error between the network's image and the photograph it was shrunk from.

    Args:
        network_name: ``"sesr"`` (small, collapsible), ``"edsr-baseline"`` or ``"edsr-large"``.
        scale: how much larger: 2, 3 or 4.
        patch: rows and columns of a low-resolution patch.
        features: channels within the network; None for the usual number.
        blocks: blocks of the network; None for the usual number.
        reductions: whole factors by which the photographs are shrunk before they serve as high resolution; 1 is the
            photograph itself. Shrinking hides what compression left, and shows other sizes of things.
        border: what the network reads beyond the border: ``"edge"``, the nearest pixel, with which one colour stays one
            colour, or ``"zeros"``, as in the published networks.

    Raises:
        ValueError: if a number is out of its domain.

    Source: Lim et al. 2017 (EDSR, arXiv 1707.02921), section 4.2: L1 loss, random patches, flips and turns; low
    resolution by antialiased bicubic interpolation, rounded to 8 bits, as in DIV2K.
    """

    network_name: Literal["sesr", "edsr-baseline", "edsr-large"] = "sesr"
    scale: int = 2
    patch: int = 32
    features: int | None = None
    blocks: int | None = None
    reductions: tuple[int, ...] = (1,)
    border: Literal["edge", "zeros"] = "edge"

    metric: ClassVar[str] = "psnr"
    greater_is_better: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.network_name not in NETWORKS:
            raise ValueError(f"network_name must be one of {', '.join(NETWORKS)}, got {self.network_name!r}")
        check_border(self.border, BORDERS)
        for name in ("features", "blocks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or None for the usual number, got {value}")
        if self.scale not in (2, 3, 4):
            raise ValueError(f"scale must be 2, 3 or 4, got {self.scale}")
        if self.patch < 8:
            raise ValueError(f"patch must be at least 8 low-resolution pixels, got {self.patch}")

    def network(self, rngs: nnx.Rngs) -> nnx.Module:
        """Construct the network."""
        sizes: dict[str, Any] = {"features": self.features, "blocks": self.blocks}
        sizes = {name: value for name, value in sizes.items() if value is not None}
        if self.network_name == "sesr":
            return SESR(self.scale, **sizes, border=self.border, rngs=rngs)
        if self.network_name == "edsr-large":
            sizes = {"features": 256, "blocks": 32, "residual_scale": 0.1} | sizes
        return EDSR(self.scale, **sizes, border=self.border, rngs=rngs)

    def prepare(self, data: Any, *, split: str = "train") -> Pairs:
        """Shrink the photographs once."""
        large = pyramid(pictures(data, split=split), self.reductions, least=self.patch * self.scale)
        return Examples(((reduced(picture, self.scale), picture) for picture in large), large.groups)

    def batch(self, source: Pairs, rows: np.ndarray, random: np.random.Generator) -> Batch:
        """Cut pairs of patches."""
        cut = [patches(((source[row][0], 1), (source[row][1], self.scale)), random, patch=self.patch) for row in rows]
        return {"low": np.stack([low for low, _ in cut]), "high": np.stack([high for _, high in cut])}

    def loss(self, network: Any, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """Compare the enlarged patch with the photograph."""
        enlarged = network(as_float(batch["low"], network)).astype(jnp.float32)
        high = batch["high"].astype(jnp.float32) / 255
        return jnp.abs(enlarged - high).mean(axis=(1, 2, 3)), {"psnr": measured_psnr(enlarged, high)}

    def panels(self, network: Any, batch: Batch, key: Array) -> dict[str, Array]:
        """Show bicubic interpolation, the network and the photograph."""
        low, high = as_float(batch["low"], network), as_float(batch["high"], network)
        bicubic = resize(low, height=high.shape[1], width=high.shape[2])
        return {"bicubic": bicubic, "network": network(low), "photograph": high}

    def finished(self, network: Any) -> nnx.Module:
        """Collapse what can be collapsed."""
        return network.collapse() if isinstance(network, SESR) else network
