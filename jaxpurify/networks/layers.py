"""Layers that several networks are made of, and the names that PyTorch gives to their weights."""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from jaxpurify.images import check_colour
from jaxpurify.networks.convolution import Conv, Padding, convolve, per_channel
from jaxpurify.networks.weights import CONVOLUTION, LINEAR, Entry

EPSILON = 1e-5


class ConvNorm(nnx.Module):
    """A convolution without bias, then batch normalisation.

    In evaluation mode the normalisation is folded into the kernel at each call: the weights stay what they were, so
    training is untouched, and an activation less is written and differentiated.

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        kernel_size: rows and columns of the kernel.
        strides: pixels from one output to the next.
        padding: as in `convolve`.
        rngs: source of the initial weights.

    Source:
        Ioffe and Szegedy 2015; epsilon 1e-5 and momentum 0.9 as in PyTorch (which writes 0.1).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        strides: int = 1,
        padding: Padding = "SAME",
        rngs: nnx.Rngs,
    ) -> None:
        self.conv = Conv(
            in_features, out_features, kernel_size, strides=strides, padding=padding, use_bias=False, rngs=rngs
        )
        self.norm = nnx.BatchNorm(out_features, epsilon=EPSILON, momentum=0.9, rngs=rngs)

    def __call__(
        self, images: Float[Array, "batch height width features"]
    ) -> Float[Array, "batch new_height new_width outputs"]:
        """Convolve and normalise (batch, height, width, in_features)."""
        if not self.norm.use_running_average:
            return self.norm(self.conv(images))
        conv, norm = self.conv, self.norm
        scale = norm.scale[...] / jnp.sqrt(norm.var[...] + norm.epsilon)  # type: ignore[index]
        shift = norm.bias[...] - norm.mean[...] * scale  # type: ignore[index]
        kernel = conv.kernel[...] * per_channel(scale, conv.kernel[...])
        normalised = convolve(images, kernel.astype(images.dtype), strides=conv.strides, padding=conv.padding)
        return normalised + per_channel(shift, images)


class PReLU(nnx.Module):
    """A rectifier that multiplies negative values by a slope, one a channel.

    Args:
        features: channels.
        slope: initial slope.

    Source:
        He, Zhang, Ren, Sun 2015, section 2.1.
    """

    def __init__(self, features: int, *, slope: float = 0.25) -> None:
        self.slope = nnx.Param(jnp.full((features,), slope, jnp.float32))

    def __call__(
        self, features: Float[Array, "batch height width features"]
    ) -> Float[Array, "batch height width features"]:
        """Rectify (batch, height, width, features)."""
        return prelu(features, self.slope[...])


def prelu(
    features: Float[Array, "batch height width features"], slope: Float[Array, " slopes"]
) -> Float[Array, "batch height width features"]:
    """Multiply negative values by a slope.

    Args:
        features: (batch, height, width, features).
        slope: (features,), one a channel, or (1,), one for all of them.

    Returns:
        (batch, height, width, features), in their dtype; the derivative at 0 is the slope, as in PyTorch.
    """
    return jnp.where(features > 0, features, per_channel(slope, features) * features)


def dense(layer: nnx.Linear, features: Float[Array, "batch features"]) -> Float[Array, "batch outputs"]:
    """Apply a linear layer in the dtype of the features, which `nnx.Linear` does not where they are float64.

    Args:
        layer: the layer, with a bias.
        features: (batch, features).

    Returns:
        (batch, outputs).
    """
    bias = layer.bias[...].astype(features.dtype)  # type: ignore[index]
    return features @ layer.kernel[...].astype(features.dtype) + bias.reshape(1, -1)


def normalise(
    images: Float[Array, "batch height width channel"], mean: tuple[float, ...], deviation: tuple[float, ...]
) -> Float[Array, "batch height width channel"]:
    """Subtract a mean from each colour and divide by a deviation.

    Args:
        images: (batch, height, width, 3) in [0, 1].
        mean: of red, green and blue.
        deviation: likewise, or one for all of them.

    Returns:
        (batch, height, width, 3).

    Raises:
        ValueError: if the images are not in colour.
    """
    check_colour(images)
    return (images - per_channel(jnp.array(mean), images)) / per_channel(jnp.array(deviation), images)


def conv_table(theirs: str, ours: str) -> dict[str, Entry]:
    """Return PyTorch's names of the weights of a convolution with a bias.

    Args:
        theirs: name of the layer there.
        ours: where a `Conv` lives here.

    Returns:
        PyTorch's name → where the weight lives here and how its axes are laid out there.
    """
    return {f"{theirs}.weight": Entry(f"{ours}.kernel", CONVOLUTION), f"{theirs}.bias": Entry(f"{ours}.bias")}


def conv_norm_table(conv: str, norm: str, ours: str) -> dict[str, Entry]:
    """Return PyTorch's names of the weights of a convolution without bias and of the normalisation after it.

    Args:
        conv: name of the convolution there.
        norm: name of the batch normalisation there.
        ours: where a `ConvNorm` lives here.

    Returns:
        PyTorch's name → where the weight lives here and how its axes are laid out there.
    """
    return {
        f"{conv}.weight": Entry(f"{ours}.conv.kernel", CONVOLUTION),
        f"{norm}.weight": Entry(f"{ours}.norm.scale"),
        f"{norm}.bias": Entry(f"{ours}.norm.bias"),
        f"{norm}.running_mean": Entry(f"{ours}.norm.mean"),
        f"{norm}.running_var": Entry(f"{ours}.norm.var"),
    }


def linear_table(theirs: str, ours: str) -> dict[str, Entry]:
    """Return PyTorch's names of the weights of a linear layer with a bias.

    Args:
        theirs: name of the layer there.
        ours: where an `nnx.Linear` lives here.

    Returns:
        PyTorch's name → where the weight lives here and how its axes are laid out there.
    """
    return {f"{theirs}.weight": Entry(f"{ours}.kernel", LINEAR), f"{theirs}.bias": Entry(f"{ours}.bias")}
