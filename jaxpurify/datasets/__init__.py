"""Labelled images: a small set inside the package, `.npz` files, folders, and TensorFlow Datasets."""

from jaxpurify.datasets.dataset import Dataset
from jaxpurify.datasets.loading import load, names

__all__ = ["Dataset", "load", "names"]
