"""Figures that papers report, as data, each with its source; where sources differ, all of them.

ICCV = Cui, Wu, Han, ICCV 2023, "supplement" its supplement; CVPR = Cui, Wu, Han, CVPR 2023.
The rows have the names of ``systems.SYSTEMS`` where they are the same; layers are bottom-up. Only
the ICCV paper's own row of table 3 has a deviation; no source gives a number of seeds.
"""

from typing import NamedTuple


class Reported(NamedTuple):
    """One row of the ICCV table on one data set, and what other papers print for the same row."""

    mse: float | None
    fid: float
    elsewhere: dict[str, float] = {}


# Test MSE and FID: ICCV, table 2; CVPR, table 1.
IMAGE_MODELLING: dict[str, dict[str, Reported]] = {
    "svhn": {
        "abp": Reported(None, 49.71),
        "lvae": Reported(0.014, 39.26),
        "biva": Reported(0.010, 31.65),
        "sri": Reported(0.011, 35.23, {"CVPR": 35.32}),
        "vlae": Reported(0.016, 43.95),
        "2s-vae": Reported(0.019, 42.81),
        "rae": Reported(0.014, 40.02, {"CVPR": 42.02}),
        "ncp-vae": Reported(0.020, 33.23),
        "multi-ncp": Reported(0.004, 26.19),
        "lebm": Reported(0.008, 29.44),
        "joint-ebm": Reported(0.008, 24.16),
    },
    "celeba64": {
        "abp": Reported(None, 51.50),
        "lvae": Reported(0.028, 53.40),
        "biva": Reported(0.010, 33.58),
        "sri": Reported(0.011, 36.84, {"CVPR": 47.95}),
        "vlae": Reported(0.010, 44.05),
        "2s-vae": Reported(0.021, 44.40),
        "rae": Reported(0.018, 40.95),
        "ncp-vae": Reported(0.021, 42.07),
        "multi-ncp": Reported(0.009, 35.38),
        "lebm": Reported(0.013, 37.87),
        "joint-ebm": Reported(0.004, 32.15),
    },
}

# FID on CIFAR-10: ICCV, table 6.
CIFAR10_FID = {
    "2s-vae": 72.90,
    "rae": 74.16,
    "ncp-vae": 78.06,
    "multi-ncp": 65.01,
    "lebm": 70.15,
    "joint-ebm": 63.42,
}

# Test accuracy in % of a classifier (one hidden layer of 256) on the inferred codes of each layer,
# by data set and system: ICCV, table 1. Both systems have the nets of VLAE.
LATENT_CLASSIFIER: dict[str, dict[str, tuple[float, ...]]] = {
    "mnist": {"vlae": (35.69, 57.86, 52.08), "joint-ebm": (32.60, 58.32, 67.64)},
    "fashion-mnist": {"vlae": (52.43, 35.65, 83.24), "joint-ebm": (39.27, 44.81, 84.27)},
    "svhn": {"vlae": (22.59, 26.97, 56.70, 52.14), "joint-ebm": (21.00, 25.29, 30.58, 86.63)},
}

# AUPRC by the digit of MNIST that is left out of training, by the score log p(x | z) + f(z) +
# log p_0(z), mean over the last 10 epochs: ICCV, table 3.
ANOMALY: dict[str, dict[int, float]] = {
    "vae": {1: 0.063, 4: 0.337, 5: 0.325, 7: 0.148, 9: 0.104},
    "hvae": {1: 0.494, 4: 0.920, 5: 0.913, 7: 0.680, 9: 0.791},
    "meg": {1: 0.281, 4: 0.401, 5: 0.402, 7: 0.290, 9: 0.342},
    "bigan-sigma": {1: 0.287, 4: 0.443, 5: 0.514, 7: 0.347, 9: 0.307},
    "lebm": {1: 0.336, 4: 0.630, 5: 0.619, 7: 0.463, 9: 0.413},
    "joint-ebm": {1: 0.722, 4: 0.949, 5: 0.980, 7: 0.941, 9: 0.935},
}
# Standard deviation over these epochs of the paper's own row.
ANOMALY_DEVIATION = {1: 0.010, 4: 0.002, 5: 0.001, 7: 0.003, 9: 0.003}

# Fashion-MNIST in, MNIST out, by the same score (HVAE with LLR: its likelihood ratio by layers):
# supplement, table 1.
OUT_OF_DISTRIBUTION: dict[str, dict[str, float]] = {
    "hvae, LLR": {"auroc": 0.984, "auprc": 0.984},
    "hvae": {"auroc": 0.268, "auprc": 0.363},
    "vlae": {"auroc": 0.199, "auprc": 0.344},
    "joint-ebm": {"auroc": 0.897, "auprc": 0.893},
}

# FID on CelebA-64 by the number K of Langevin steps: ICCV, table 4.
LANGEVIN_STEPS = {15: 56.42, 30: 39.89, 60: 32.15, 150: 31.20, 300: 30.78}

# FID by the width of f, two layers: ICCV, table 5. On SVHN, which its caption does not say: 0 and
# 100 are the rows of VLAE and of the joint prior of table 2.
PRIOR_WIDTH = {0: 43.95, 10: 41.72, 20: 33.10, 50: 30.42, 100: 24.16}

# MIG and MIG-sup on 3DShapes, three layers of 3 dimensions: supplement, table 2.
DISENTANGLEMENT: dict[str, dict[str, float]] = {
    "pro-vlae": {"mig": 0.357, "mig-sup": 0.406},
    "joint-ebm": {"mig": 0.554, "mig-sup": 0.672},
}
