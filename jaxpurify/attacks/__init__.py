"""Attacks: one file a family; an attack is a frozen pytree dataclass that is called."""

from jaxpurify.attacks.attack import Attack as Attack
from jaxpurify.attacks.drivers import Verdict as Verdict
from jaxpurify.attacks.drivers import bucket_sizes as bucket_sizes
from jaxpurify.attacks.drivers import run as run
from jaxpurify.attacks.drivers import verdict as verdict
from jaxpurify.attacks.gradient import FGSM as FGSM
from jaxpurify.attacks.gradient import IFGSM as IFGSM
from jaxpurify.attacks.gradient import MIFGSM as MIFGSM
from jaxpurify.attacks.gradient import PGD as PGD
from jaxpurify.attacks.gradient import GradientAttack as GradientAttack
from jaxpurify.attacks.losses import LOSSES as LOSSES
from jaxpurify.attacks.noise import RandomNoise as RandomNoise
from jaxpurify.attacks.registry import make as make
from jaxpurify.attacks.registry import names as names
from jaxpurify.attacks.result import STATUS as STATUS
from jaxpurify.attacks.result import AttackResult as AttackResult
from jaxpurify.gradients import Expectation as Expectation
