"""Purifiers: one file a defence; images in, images out."""

from jaxpurify.ensembles import CropEnsemble as CropEnsemble
from jaxpurify.models import Repeat as Repeat
from jaxpurify.models import Sequential as Sequential
from jaxpurify.purifiers.bit_depth import BitDepth as BitDepth
from jaxpurify.purifiers.frequency import LowPass as LowPass
from jaxpurify.purifiers.frequency import RandomFrequencyMask as RandomFrequencyMask
from jaxpurify.purifiers.gaussian_noise import GaussianNoise as GaussianNoise
from jaxpurify.purifiers.identity import Identity as Identity
from jaxpurify.purifiers.jpeg import JPEG as JPEG
from jaxpurify.purifiers.median import Median as Median
from jaxpurify.purifiers.ncis import NCIS as NCIS
from jaxpurify.purifiers.ncis import BlindSpot as BlindSpot
from jaxpurify.purifiers.non_local_means import NonLocalMeans as NonLocalMeans
from jaxpurify.purifiers.pixel_deflection import PixelDeflection as PixelDeflection
from jaxpurify.purifiers.quilting import Quilting as Quilting
from jaxpurify.purifiers.random_crop import RandomCrop as RandomCrop
from jaxpurify.purifiers.random_resizing import RandomResizing as RandomResizing
from jaxpurify.purifiers.registry import make as make
from jaxpurify.purifiers.registry import names as names
from jaxpurify.purifiers.resizing import Resizing as Resizing
from jaxpurify.purifiers.smoothing import GaussianSmoothing as GaussianSmoothing
from jaxpurify.purifiers.super_resolution import SuperResolution as SuperResolution
from jaxpurify.purifiers.total_variation import RandomPixelTotalVariation as RandomPixelTotalVariation
from jaxpurify.purifiers.total_variation import TotalVariation as TotalVariation
from jaxpurify.purifiers.wavelet import WaveletDenoising as WaveletDenoising
