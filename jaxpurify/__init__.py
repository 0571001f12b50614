"""Purify images against adversarial attacks, in JAX, and tell the truth about how well that works."""

from jaxpurify import cli as cli  # first: it has Ctrl-C end the command while the rest is imported

# isort: split
from jaxpurify import attacks as attacks
from jaxpurify import datasets as datasets
from jaxpurify import gradients as gradients
from jaxpurify import images as images
from jaxpurify import interop as interop
from jaxpurify import metrics as metrics
from jaxpurify import networks as networks
from jaxpurify import purifiers as purifiers
from jaxpurify import testing as testing
from jaxpurify import training as training
from jaxpurify import transforms as transforms
from jaxpurify.detectors import Detector as Detector
from jaxpurify.detectors import FeatureSqueezing as FeatureSqueezing
from jaxpurify.ensembles import Ensemble as Ensemble
from jaxpurify.evaluation import Evaluation as Evaluation
from jaxpurify.evaluation import ThreatModel as ThreatModel
from jaxpurify.evaluation import evaluate as evaluate
from jaxpurify.gradients import Expectation as Expectation
from jaxpurify.models import Classifier as Classifier
from jaxpurify.models import Defended as Defended
from jaxpurify.models import Repeat as Repeat
from jaxpurify.models import Sequential as Sequential
from jaxpurify.models import classifier as classifier
from jaxpurify.models import purifier as purifier
from jaxpurify.models import sweep as sweep
from jaxpurify.purifiers.apply import purify as purify
from jaxpurify.pytrees import static as static

__version__ = "0.1.0"
