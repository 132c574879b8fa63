"""jlebm_core: energy-based priors in latent space, one file for each idea.

prior x generator x inference x objective: ``System`` puts the four together; ``systems.SYSTEMS``
is the table of the field's systems; the book (chapters 01 to 04) has the equations.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .generators import GaussianGenerator as GaussianGenerator
    from .inference import GaussianEncoder as GaussianEncoder
    from .inference import LangevinPosterior as LangevinPosterior
    from .objectives import MaximumLikelihood as MaximumLikelihood
    from .objectives import Regularised as Regularised
    from .objectives import Variational as Variational
    from .priors import EBMPrior as EBMPrior
    from .priors import StandardNormal as StandardNormal
    from .systems import System as System
    from .systems import load as load
    from .systems import load_weights as load_weights
    from .systems import shipped as shipped
    from .training.trainer import fit as fit

__version__ = "0.1.0"

# name -> the module it lies in, imported when the name is used: PyTorch takes seconds
_NAMES = {
    "EBMPrior": "priors",
    "GaussianEncoder": "inference",
    "GaussianGenerator": "generators",
    "LangevinPosterior": "inference",
    "MaximumLikelihood": "objectives",
    "Regularised": "objectives",
    "StandardNormal": "priors",
    "System": "systems",
    "Variational": "objectives",
    "fit": "training.trainer",
    "load": "systems",
    "load_weights": "systems",
    "shipped": "systems",
}
__all__ = ["__version__", *_NAMES]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_NAMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
