"""The blind-spot network: it rebuilds every pixel from its surroundings and never sees the pixel itself."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax
from jaxtyping import Float

from jaxpurify.networks.borders import (
    OPPOSITE,
    ZEROS,
    check_border,
    has_opposites,
    opposite_padded,
    opposite_sources,
)
from jaxpurify.networks.convolution import convolve, convolve_padded, own_gradients, per_channel
from jaxpurify.networks.layers import prelu
from jaxpurify.networks.weights import Entry, Layout

DEPTH = 8
WIDTH = 64
# The taps that the masks leave, as (row, column) of the square kernel, in the order in which a layer keeps them.
AROUND = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2))
KNIGHT = ((2, 2), (0, 1), (0, 3), (4, 1), (4, 3), (1, 0), (1, 4), (3, 0), (3, 4))
QUINCUNX = ((1, 1), (0, 0), (0, 2), (2, 0), (2, 2))
BORDERS = (ZEROS, OPPOSITE)
# What follows the centre tap, four taps at a time, is the corners of a rectangle: a 2×2 kernel of this dilation.
KNIGHT_RECTANGLES = ((4, 2), (2, 4))
QUINCUNX_RECTANGLES = ((6, 6),)


class BlindSpotNetwork(nnx.Module):
    """A network whose output at a pixel depends on the pixels around it and on no channel of that pixel.

    A stream of masked convolutions, m, looks around; a second stream, o, gathers from m, a pixel at a time:
    m_l = PReLU(conv_l(m_{l-1})), o_1 = Res(m_1), o_l = Res(PReLU((m_l + o_{l-1}) / 2)), and the output is a 1×1
    convolution of Res(PReLU(mean of all o_l)), where Res(x) = PReLU((x + 1×1(PReLU(1×1(x)))) / 2).

    It is blind at every depth. Layer 1 looks one step away, in eight directions. Layer 2 moves by a knight's move or
    not at all, which brings layer 1 back to a pixel whose offset is a multiple of 3 in both directions only at
    (±3, 0) and (0, ±3). The layers after it move by (±3, ±3) or not at all, which never makes the sum of both offsets
    an even multiple of 3 where it was an odd one: offset (0, 0) stays out of reach.

    With the border "opposite", a tap that lies outside the image is replaced by the tap on the opposite side of the
    output pixel: row offset and column offset change sign, each if it leads outside. A kernel's taps lie
    symmetrically, so what is read is another tap of the same kernel, and the network is blind at the border for the
    same reason as inside; an image of one colour stays of one colour, since nothing but the image is read. Where both
    sides are outside, in images of less than 6 pixels, the tap reads the centre, and in the first layer, which has
    none, the neighbour along the other axis.

    Args:
        channels: channels of the images: 3 for RGB, 1 for grey.
        width: features of each stream.
        layers: number of masked convolutions, 1 or more; 8 here, 17 in the scripts of the authors.
        border: what convolutions read beyond the border: "zeros", with which an image gets darker towards its border,
            or "opposite", as above. Weights belong to the border with which they were trained.
        rngs: source of the initial weights.

    Attributes:
        receptive_field: rows (and columns) of the square that an output pixel can see: 43 for 8 layers, 97 for 17.
        macs_per_pixel: multiply-adds for a pixel; taps that the masks remove are not computed, and not counted.

    Raises:
        ValueError: if a count is below 1 or the border unknown; when called with the border "opposite", if an image has
            one pixel, which has no neighbours.

    Source:
        FBI-Denoiser (Byun, Cha, Moon 2021), as its published code has it: no batch normalisation, PReLU slopes one a
        channel and 0 at first, the border "zeros"; the border "opposite" is our choice. That code has as many slopes in
        the first layer as the images have channels: one here too for grey images, and one for each of the layer's
        outputs for others, which is our choice, as are the initial weights (He et al. 2015).
    """

    def __init__(
        self, channels: int = 3, *, width: int = WIDTH, layers: int = DEPTH, border: str = ZEROS, rngs: nnx.Rngs
    ) -> None:
        for name, count in (("channels", channels), ("width", width), ("layers", layers)):
            if isinstance(count, bool) or count < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {count}")
        self.channels, self.width, self.layers = channels, width, layers
        self.border = check_border(border, BORDERS)
        self.receptive_field = receptive_field(layers)
        self.first = _First(channels, width, border=border, rngs=rngs)
        self.rest = nnx.List(
            [
                _Layer(width, QUINCUNX_RECTANGLES if number else KNIGHT_RECTANGLES, border=border, rngs=rngs)
                for number in range(layers - 1)
            ]
        )
        self.slope = _zeros(width)
        self.residual = _Residual(width, rngs=rngs)
        self.output = _Pointwise(width, channels, rngs=rngs)

    @property
    def macs_per_pixel(self) -> int:
        """Multiply-adds for one pixel of an image."""
        kernels = [self.first.kernel, *(layer.kernel for layer in self.rest)]
        pointwise = (2 * (self.layers + 1) * self.width + self.channels) * self.width
        return sum(kernel.size for kernel in kernels) + pointwise

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Rebuild images (batch, height, width, channels) in [0, 1]; the result is not clipped."""
        if images.shape[-1] != self.channels:
            raise ValueError(f"images must have {self.channels} channels, last, got the shape {images.shape}")
        if self.border == OPPOSITE and images.shape[1:3] == (1, 1):
            raise ValueError(f"images must have more than one pixel, for a pixel's neighbours, got {images.shape}")
        looking = self.first(images)
        gathered = total = self.first.residual(looking)
        layers = list(self.rest)
        streams = _run(layers[1:], _run(layers[:1], (looking, gathered, total)))
        total = streams[2]
        return self.output(self.residual(prelu(total / self.layers, self.slope[...])))


def _run(layers: list["_Layer"], streams: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    """Apply layers of one shape, and sum what they gather.

    In a loop, because XLA's CPU backend would otherwise fuse the elementwise steps of all layers, recomputing them for
    each of their uses: a gradient then takes half as long again.
    """
    if not layers:
        return streams
    graph = nnx.graphdef(layers[0])
    weights = jax.tree.map(lambda *arrays: jnp.stack(arrays), *(nnx.state(layer) for layer in layers))

    def step(streams: tuple[Array, Array, Array], state: Any) -> tuple[tuple[Array, Array, Array], None]:
        looking, gathered, total = streams
        looking, gathered = nnx.merge(graph, state)(looking, gathered)
        return (looking, gathered, total + gathered), None

    return lax.scan(step, streams, weights)[0]


class _First(nnx.Module):
    """The eight neighbours of a pixel, side by side, in one dense product: images have few channels."""

    def __init__(self, channels: int, width: int, *, border: str, rngs: nnx.Rngs) -> None:
        self.border = border
        self.kernel = _weights((len(AROUND), channels, width), rngs)
        self.bias = _zeros(width)
        self.slope = _zeros(1 if channels == 1 else width)
        self.residual = _Residual(width, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        height, width = images.shape[1:3]
        if self.border == OPPOSITE and not has_opposites(images.shape[1:3], (1, 1)):
            neighbours = _gathered(images, tuple((row - 1, column - 1) for row, column in AROUND))
        else:
            zeros = self.border == ZEROS
            padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))) if zeros else opposite_padded(images, (1, 1))
            neighbours = [padded[:, row : row + height, column : column + width] for row, column in AROUND]
        kernel = self.kernel[...].reshape(-1, self.kernel.shape[-1])
        looking = _product(jnp.concatenate(neighbours, axis=-1), kernel) + per_channel(self.bias[...], images)
        return prelu(looking, self.slope[...])


class _Layer(nnx.Module):
    """A masked convolution of the looking stream, and the step of the gathering stream.

    The kernel is computed as what it is made of, a centre and rectangles, which spares the taps that the mask removes.
    """

    def __init__(self, width: int, rectangles: tuple[tuple[int, int], ...], *, border: str, rngs: nnx.Rngs) -> None:
        self.rectangles, self.border = rectangles, border
        self.kernel = _weights((1 + 4 * len(rectangles), width, width), rngs)
        self.bias = _zeros(width)
        self.slope = _zeros(width)
        self.gathering_slope = _zeros(width)
        self.residual = _Residual(width, rngs=rngs)

    def __call__(self, looking: Array, gathered: Array) -> tuple[Array, Array]:
        kernel = self.kernel[...].astype(looking.dtype)
        around = _product(looking, kernel[0])
        for number, dilation in enumerate(self.rectangles):
            around = around + self._corners(looking, kernel[1 + 4 * number : 5 + 4 * number], dilation)
        looking = prelu(around + per_channel(self.bias[...], looking), self.slope[...])
        return looking, self.residual(prelu((looking + gathered) / 2, self.gathering_slope[...]))

    def _corners(self, looking: Array, kernel: Array, dilation: tuple[int, int]) -> Array:
        """Convolve with the corners of a rectangle, as many rows and columns apart as the dilation says."""
        down, right = dilation[0] // 2, dilation[1] // 2
        corners = kernel.reshape(2, 2, *kernel.shape[1:])
        if self.border == OPPOSITE and not has_opposites(looking.shape[1:3], (down, right)):
            taps = ((0, 0), (-down, -right), (-down, right), (down, -right), (down, right))
            gathered = jnp.concatenate(_gathered(looking, taps)[1:], axis=-1)
            return _product(gathered, kernel.reshape(-1, kernel.shape[-1]))
        with own_gradients(True):  # JAX's are slow in the loop, and for dilated kernels everywhere
            if self.border == ZEROS:
                return convolve(looking, corners, kernel_dilation=dilation)
            return convolve_padded(opposite_padded(looking, (down, right)), corners, kernel_dilation=dilation)


def _gathered(features: Array, taps: tuple[tuple[int, int], ...]) -> list[Array]:
    """Return what each tap reads under the border "opposite", for images too small to be padded."""
    batch, height, width, channels = features.shape
    pixels = features.reshape(batch, height * width, channels)
    return [pixels[:, source].reshape(features.shape) for source in opposite_sources(height, width, taps)]


class _Residual(nnx.Module):
    """Two 1×1 convolutions beside the identity, averaged."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.first = _Pointwise(width, width, rngs=rngs)
        self.first_slope = _zeros(width)
        self.second = _Pointwise(width, width, rngs=rngs)
        self.second_slope = _zeros(width)

    def __call__(self, features: Array) -> Array:
        correction = self.second(prelu(self.first(features), self.first_slope[...]))
        return prelu((features + correction) / 2, self.second_slope[...])


class _Pointwise(nnx.Module):
    """A 1×1 convolution."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = _weights((in_features, out_features), rngs)
        self.bias = _zeros(out_features)

    def __call__(self, features: Array) -> Array:
        return _product(features, self.kernel[...]) + per_channel(self.bias[...], features)


def receptive_field(layers: int) -> int:
    """Return the rows (and columns) of the square that an output pixel can see.

    Args:
        layers: number of masked convolutions.

    Returns:
        43 for 8 layers, 97 for 17.
    """
    return 3 if layers == 1 else 7 + 6 * (layers - 2)


def blind_spot_table(layers: int) -> dict[str, Entry]:
    """Return PyTorch's name of each weight of `BlindSpotNetwork(layers=layers)`, in the naming of FBI-Denoiser's code.

    Args:
        layers: number of masked convolutions.

    Returns:
        PyTorch's name → where the weight lives here and how its axes are laid out there. What a state dict holds
        under a mask is dropped, as its own forward pass does.
    """
    table = {}
    for number in range(layers):
        theirs = ("new1", "new2")[number] if number < 2 else f"new_{number - 2}"
        ours = "first" if number == 0 else f"rest.{number - 1}"
        convolution = f"{theirs}.new{min(number + 1, 3)}.conv1"
        size, taps = ((3, AROUND), (5, KNIGHT), (3, QUINCUNX))[min(number, 2)]
        table[f"{convolution}.weight"] = Entry(f"{ours}.kernel", _masked(size, taps))
        table[f"{convolution}.bias"] = Entry(f"{ours}.bias")
        table[f"{theirs}.activation_new1.weight"] = Entry(f"{ours}.slope")
        if number:
            table[f"{theirs}.activation_new2.weight"] = Entry(f"{ours}.gathering_slope")
        table |= _residual_table(f"{theirs}.residual_module", f"{ours}.residual")
    table["activation.weight"] = Entry("slope")
    return table | _residual_table("residual_module", "residual") | _pointwise_table("output_layer", "output")


def _residual_table(theirs: str, ours: str) -> dict[str, Entry]:
    return {
        **_pointwise_table(f"{theirs}.conv1_1by1", f"{ours}.first"),
        **_pointwise_table(f"{theirs}.conv2_1by1", f"{ours}.second"),
        f"{theirs}.activation1.weight": Entry(f"{ours}.first_slope"),
        f"{theirs}.activation2.weight": Entry(f"{ours}.second_slope"),
    }


def _pointwise_table(theirs: str, ours: str) -> dict[str, Entry]:
    layout = Layout(lambda weight: weight[:, :, 0, 0].T, lambda kernel: kernel.T[:, :, None, None])
    return {f"{theirs}.weight": Entry(f"{ours}.kernel", layout), f"{theirs}.bias": Entry(f"{ours}.bias")}


def _masked(size: int, taps: tuple[tuple[int, int], ...]) -> Layout:
    """Return the layout of a square kernel, of which only some taps are kept."""
    rows, columns = (list(axis) for axis in zip(*taps, strict=True))

    def encode(ours: np.ndarray) -> np.ndarray:
        theirs = np.zeros((*ours.shape[:0:-1], size, size), ours.dtype)
        theirs[:, :, rows, columns] = ours.transpose(2, 1, 0)
        return theirs

    return Layout(lambda theirs: theirs[:, :, rows, columns].transpose(2, 1, 0), encode)


def _weights(shape: tuple[int, ...], rngs: nnx.Rngs) -> nnx.Param:
    return nnx.Param(nnx.initializers.he_normal()(rngs.params(), shape, jnp.float32))


def _zeros(size: int) -> nnx.Param:
    return nnx.Param(jnp.zeros((size,), jnp.float32))


def _product(features: Array, kernel: Array) -> Array:
    """Multiply every pixel's features by a matrix.

    Flat, because the gradient of four axes is transposed into place by XLA's CPU backend, which takes as long again.
    """
    flat = features.reshape(-1, features.shape[-1]) @ kernel.astype(features.dtype)
    return flat.reshape(*features.shape[:-1], -1)
