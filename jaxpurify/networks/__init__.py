"""Networks by name, with shipped or other people's weights, and the layers that they are made of."""

from jaxpurify.networks.blind_spot import BlindSpotNetwork
from jaxpurify.networks.conversion import Conversion, convert
from jaxpurify.networks.convolution import Conv, convolve
from jaxpurify.networks.edsr import EDSR
from jaxpurify.networks.imagenet_resnet import ImageNetResNet
from jaxpurify.networks.photos_cnn import PhotosCNN
from jaxpurify.networks.registry import load_classifier, load_module, load_network, names
from jaxpurify.networks.resnet import CifarResNet, CifarResNet4b
from jaxpurify.networks.sesr import SESR, CollapsedSESR

__all__ = [
    "EDSR",
    "SESR",
    "BlindSpotNetwork",
    "CifarResNet",
    "CifarResNet4b",
    "CollapsedSESR",
    "Conv",
    "Conversion",
    "ImageNetResNet",
    "PhotosCNN",
    "convert",
    "convolve",
    "load_classifier",
    "load_module",
    "load_network",
    "names",
]
