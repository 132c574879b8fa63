r"""Priors p(z) over the joined latents z = [z_1, .., z_L]: exp(f(z)) p_0(z) / Z, or exact laws.

f is the **negative** energy: larger f, more likely. Shapes: z is (B, D), layers bottom-up; f and
every log-density are (B,).
"""

from .base import NormalBase, Prior, StandardNormal, check_density, sample_layer
from .ebm import EBMPrior, RatioPrior
from .hierarchical import GaussianChain, TiltedChain
from .posthoc import MixturePrior, SecondVAE

__all__ = [
    "EBMPrior",
    "GaussianChain",
    "MixturePrior",
    "NormalBase",
    "Prior",
    "RatioPrior",
    "SecondVAE",
    "StandardNormal",
    "TiltedChain",
    "check_density",
    "sample_layer",
]
