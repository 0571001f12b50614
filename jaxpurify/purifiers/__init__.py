"""Purifiers: one file a defence; images in, images out."""

from jaxpurify.models import Repeat as Repeat
from jaxpurify.models import Sequential as Sequential
from jaxpurify.purifiers.bit_depth import BitDepth as BitDepth
from jaxpurify.purifiers.frequency import LowPass as LowPass
from jaxpurify.purifiers.frequency import RandomFrequencyMask as RandomFrequencyMask
from jaxpurify.purifiers.identity import Identity as Identity
from jaxpurify.purifiers.registry import make as make
from jaxpurify.purifiers.registry import names as names
from jaxpurify.purifiers.smoothing import GaussianSmoothing as GaussianSmoothing
