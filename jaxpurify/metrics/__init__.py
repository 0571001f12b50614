"""Accuracies, intervals, norms and the quality of images: each defined once."""

from jaxpurify.metrics.accuracy import Interval as Interval
from jaxpurify.metrics.accuracy import attack_success_rate as attack_success_rate
from jaxpurify.metrics.accuracy import destruction_rate as destruction_rate
from jaxpurify.metrics.accuracy import robust_accuracy as robust_accuracy
from jaxpurify.metrics.accuracy import wilson as wilson
from jaxpurify.metrics.norms import check_perturbations as check_perturbations
from jaxpurify.metrics.norms import perturbation_norms as perturbation_norms
from jaxpurify.metrics.quality import luma_psnr as luma_psnr
from jaxpurify.metrics.quality import psnr as psnr
from jaxpurify.metrics.quality import ssim as ssim
