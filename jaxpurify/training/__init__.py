"""Training: one loop, and the tasks it runs."""

from jaxpurify.training.blind_spot import BlindSpot as BlindSpot
from jaxpurify.training.classification import Classifier as Classifier
from jaxpurify.training.loop import Trained as Trained
from jaxpurify.training.loop import fit as fit
from jaxpurify.training.recipe import Recipe as Recipe
from jaxpurify.training.super_resolution import SuperResolution as SuperResolution
from jaxpurify.training.surrogate import Surrogate as Surrogate
from jaxpurify.training.task import Task as Task
