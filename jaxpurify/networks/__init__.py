"""Networks by name, with shipped or other people's weights, and the layers that they are made of."""

from jaxpurify.networks.conversion import Conversion, convert
from jaxpurify.networks.convolution import Conv, convolve
from jaxpurify.networks.photos_cnn import PhotosCNN
from jaxpurify.networks.registry import load_classifier, load_module, names
from jaxpurify.networks.resnet import CifarResNet, CifarResNet4b

__all__ = [
    "CifarResNet",
    "CifarResNet4b",
    "Conv",
    "Conversion",
    "PhotosCNN",
    "convert",
    "convolve",
    "load_classifier",
    "load_module",
    "names",
]
