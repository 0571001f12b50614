"""Threat models, scoring, statistics, the run on disk and the report."""

from jaxpurify.evaluation.evaluate import evaluate as evaluate
from jaxpurify.evaluation.noise_analysis import NoiseAnalysis as NoiseAnalysis
from jaxpurify.evaluation.noise_analysis import analyse_noise as analyse_noise
from jaxpurify.evaluation.result import Evaluation as Evaluation
from jaxpurify.evaluation.threat_models import NotEvaluatedError as NotEvaluatedError
from jaxpurify.evaluation.threat_models import ThreatModel as ThreatModel
from jaxpurify.evaluation.threat_models import adaptive as adaptive
from jaxpurify.evaluation.threat_models import blackbox as blackbox
from jaxpurify.evaluation.threat_models import builtin as builtin
from jaxpurify.evaluation.threat_models import transfer as transfer
