"""Figures that papers report, as data, each with its source; where sources differ, all of them.

ICCV = Cui, Wu, Han, ICCV 2023, table 2 (test MSE, FID); CVPR = Cui, Wu, Han, CVPR 2023, table 1.
No source gives an error bar or a number of seeds.
"""

from typing import NamedTuple


class Reported(NamedTuple):
    """One row of the ICCV table on one data set, and what other papers print for the same row."""

    mse: float | None
    fid: float
    elsewhere: dict[str, float] = {}


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

# FID on CIFAR-10: ICCV 2023, table 6.
CIFAR10_FID = {
    "2s-vae": 72.90,
    "rae": 74.16,
    "ncp-vae": 78.06,
    "multi-ncp": 65.01,
    "lebm": 70.15,
    "joint-ebm": 63.42,
}
