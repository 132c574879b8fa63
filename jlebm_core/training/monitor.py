"""What a training run watches: the codes' moments, and limits beyond which it has diverged."""

import math

from torch import Tensor

from ..errors import Diverged

# f_gap = f_pos - f_neg: where it opens, K steps no longer follow f, and f and the codes run away
# together, long before anything overflows.
LIMITS = {"f_gap": 50.0, "f_pos": 1e3, "f_neg": 1e3, "z_pos_max": 100.0, "z_neg_max": 100.0}


def check(means: dict[str, float], step: int, *, warming_up: bool = False) -> None:
    """Raise Diverged with one sentence if a logged mean is not finite or beyond ``LIMITS``.

    While the KL is ``warming_up``, next to nothing holds the codes of images: colour images throw
    them out to some hundreds within the first fifty steps, and they come back as the weight rises.
    """
    for name, value in means.items():
        limit = LIMITS.get(name, math.inf)
        if warming_up and name == "z_pos_max":
            limit = math.inf
        if not math.isfinite(value) or abs(value) > limit:
            error = Diverged(
                f"training diverged at step {step}: {name} = {value:.3g} (limit {limit:g}); "
                "try a smaller lr_prior, a larger penalty on f^2, or spectral_norm."
            )
            error.metric = {"name": "diverged_at_step", "value": step, "quantity": name}
            raise error


def detached(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach() for k, v in terms.items()}


def moments(**codes: Tensor) -> dict[str, Tensor]:
    """Mean, standard deviation and largest absolute value of codes, under their names."""
    terms = {}
    for name, z in codes.items():
        terms |= {
            f"{name}_mean": z.mean(),
            f"{name}_std": z.std() if z.numel() > 1 else z.new_zeros(()),
            f"{name}_max": z.abs().amax(),
        }
    return terms
