"""Published settings, as far as papers and released code give them.

``PRESETS`` are whole configurations by name. ``paper`` gives every row of the table the settings of
its own paper on comparable nets: one-layer rows and chains the generator of LEBM, ladders that of
the ICCV paper's FID runs. Where a paper is silent, a comment says what stands in.
"""

from .errors import UsageError

_ICCV = {  # shared by the released SVHN scripts
    "image": (3, 32, 32),
    "encoder_act": "lrelu0.01",
    "bias": False,
    "spectral_norm": 1.0,
    "lr": 3e-4,
    "lr_prior": 2e-6,
    "betas": (0.0, 0.9),
    "weight_decay": 5e-4,
    "lr_decay": "epoch",
    "kl": "monte-carlo",
}

_FID = {  # of the net behind the SVHN figure
    "dims": (10, 10, 10, 10, 10),
    "levels": (
        "conv 256, up 128, conv 128, conv C tanh",
        "conv 256, up 256, conv 256",
        "conv 512, up 256, conv 256",
        "conv 1024, up 512, conv 512",
        "fc 2048, fc 2048, map 1024 2",
    ),
    "trunk": (
        "down 128, conv 128",
        "down 256, conv 256",
        "down 256, conv 256",
        "down 512, conv 512",
    ),
    "ladders": (
        "down 128, conv 128",
        "down 256, conv 256",
        "down 256, conv 256",
        "down 512, conv 512",
        "fc 1024, fc 1024",
    ),
    "sigma": 20**-0.5,  # weight 10 on the squared error
    "prior_steps": 100,
    "prior_step_size": 0.3,
}

_LEBM = {
    "prior_hidden": (200, 200),
    "lr": 1e-4,
    "lr_prior": 2e-5,
    "betas": (0.5, 0.999),
    "lr_decay": "epoch",
}

# Published settings by name: (system, data, settings). Steps = epochs x images / batch.
PRESETS: dict[str, tuple[str, str, dict]] = {
    "iccv2023-svhn-fid": (
        "joint-ebm",
        "svhn-extra",
        {
            **_ICCV,
            **_FID,
            "steps": 1_062_200,
        },
    ),
    "iccv2023-svhn-hs": (
        "joint-ebm",
        "svhn-extra",
        {
            **_ICCV,
            "dims": (2, 2, 2, 10),
            "levels": (
                "up 32, conv C tanh",
                "up 64, conv 32 none",
                "map 64 4, up 64, conv 64 none",
                "fc 256, fc 256, fc 64 none",
            ),
            "trunk": ("down 32, conv 32", "down 64, conv 64", "down 64, conv 64"),
            "ladders": (
                "down 32, conv 32",
                "down 64, conv 64",
                "down 64, conv 64",
                "fc 256, fc 256",
            ),
            "join": "add",
            "sigma": 6**-0.5,  # weight 3 on the squared error
            "prior_hidden": (50, 50, 50, 50),
            "steps": 531_100,
        },
    ),
    "neurips2020-lebm-svhn": (
        "lebm",
        "svhn",
        {
            **_LEBM,
            "image": (3, 32, 32),
            "dims": (100,),
            "levels": ("seed 512 4, up 256, up 128, up C tanh",),
            "steps": 146_700,
        },
    ),
    "icml2017-vlae-mnist": (  # with concatenation and squared error, not gates and L1
        "vlae",
        "mnist",
        {
            "image": (1, 28, 28),
            "dims": (2, 2, 2),
            "levels": (
                "fc 1024, map 128 7, up 64, up C tanh",
                "fc 1024, fc 1024, fc 1024",
                "fc 1024, fc 1024, fc 1024",
            ),
            "trunk": ("down 64, down 128, fc 1024", "fc 1024, fc 1024, fc 1024"),
            "ladders": (
                "down 64, down 128, fc 1024",
                "fc 1024, fc 1024",
                "fc 1024, fc 1024, fc 1024",
            ),
            "norm": True,
            "bias": False,
            "lr": 2e-4,
            "lr_decay": "none",
            "warmup": 2000,
            "steps": 100_000,
        },
    ),
}

IMAGES = {  # of the training split
    "svhn": 73_257,
    "svhn-extra": 531_131,
    "cifar10": 50_000,
    "cifar10-jpeg": 50_000,
    "celeba64": 162_770,
}

# LEBM's generator by the scale rule of its group's code, and an encoder of the same widths, which
# the papers on Langevin inference have no need of: (dimensions, generator, encoder).
_CIFAR = (
    128,
    "seed 1024 8, up 512, up 256, conv C tanh",
    "down 256, down 512, down 1024",
)
_SVHN = (100, "seed 512 4, up 256, up 128, up C tanh", "down 128, down 256, down 512")
_ONE_LAYER = {
    "svhn": _SVHN,
    "svhn-extra": _SVHN,
    "cifar10": _CIFAR,
    "cifar10-jpeg": _CIFAR,
    "celeba64": (
        100,
        "seed 1024 4, up 512, up 256, up 128, up C tanh",
        "down 128, down 256, down 512, down 1024",
    ),
}

# Each paper's own training. "epochs" and "fit_epochs" become steps.
_ROWS: dict[str, dict] = {
    "vae": {**_LEBM, "epochs": 201},
    "abp": {**_LEBM, "epochs": 201},  # with LEBM's chain and optimiser, as its own are for MATLAB
    "sri": {  # CelebA at 32x32; sigma_i >= 1 in the released code
        "dims": (64, 64, 64, 96, 128),
        "sigma": 0.15,
        "act": "gelu",
        "chain_floor": 1.0,
        "posterior_steps": 25,
        "posterior_step_size": 0.05,
        "lr": 8e-5,
        "betas": (0.5, 0.999),
        "epochs": 600,
    },
    "lvae": {
        "dims": (64, 32, 16, 8, 4),
        "norm": True,
        "lr": 2e-4,
        "batch": 256,
        "warmup_epochs": 200,
        "epochs": 2000,
    },
    "biva": {  # with batch instead of weight normalisation, and a normal likelihood
        "dims": (48, 40, 32, 24, 16, 8),  # the upper ones, where the nets have fewer layers
        "norm": True,
        "encoder_act": "lrelu",
        "weight_decay": 0.0,
        "spectral_norm": None,
        "betas": (0.9, 0.999),
        "lr": 2e-3,
        "batch": 48,
        "free_bits": 2.0,
        "ema": 0.9995,
        "epochs": 500,
    },
    "vlae": {"epochs": 200},  # f = 0 on the nets of the joint prior, as in its ablation
    "2s-vae": {  # the rate falls by a cosine instead of halving
        "dims": (64,),
        "learn_sigma": True,
        "sigma": 1.0,
        "norm": True,
        "lr": 1e-4,
        "lr_prior": 1e-4,
        "batch": 64,
        "prior_hidden": (1024, 1024, 1024),
        "epochs": 400,
        "fit_epochs": 800,
    },
    "rae": {  # RAE-L2 as for CIFAR-10
        "dims": (128,),
        "norm": True,
        "lr": 1e-3,
        "code_penalty": 1e-3,
        "decoder_penalty": 1e-6,
        "epochs": 100,
    },
    "ncp-vae": {**_LEBM, "lr_prior": 1e-4, "epochs": 201, "fit_epochs": 100},
    "multi-ncp": {**_LEBM, "lr_prior": 1e-4, "ratios": 4, "epochs": 201},
    "lebm": {**_LEBM, "epochs": 201},
    "joint-ebm": {"epochs": 200},
    "joint-ebm-mle": {"epochs": 200},  # LEBM's posterior chain
    "layerwise-ebm": {
        "dims": (128, 100),
        "chain_hidden": (200, 200, 200, 200),
        "prior_hidden": ((200, 200, 200), (100, 100)),
        "posterior_steps": 40,
        "lr": 1e-4,
        "lr_prior": 2e-5,
        "lr_chain": 1e-4,
        "lr_decay": "none",
        "epochs": 101,
    },
}
_ROWS["layerwise-ebm-vi"] = _ROWS["layerwise-ebm"]

LADDERS = ("joint-ebm", "joint-ebm-mle", "vlae", "biva")


def paper(system: str, data: str) -> dict:
    """The settings of ``system``'s own paper on ``data``: nets, training, steps.

    Raises UsageError for a data set that is not in ``IMAGES``.
    """
    if data not in IMAGES:
        raise UsageError(f"the paper budget is for {', '.join(IMAGES)}, not for {data!r}.")
    row = dict(_ROWS[system])
    epochs = {k: row.pop(k, 0) for k in ("epochs", "fit_epochs", "warmup_epochs")}
    nets = _ladder(data) if system in LADDERS else _one_layer(data, row.get("dims"))
    settings = {**nets, **row}
    per_epoch = IMAGES[data] // settings.get("batch", 100)
    settings |= {
        "steps": epochs["epochs"] * per_epoch,
        "fit_steps": epochs["fit_epochs"] * per_epoch,
        "warmup": epochs["warmup_epochs"] * per_epoch,
    }
    layers = len(settings["ladders"])
    return settings | {"dims": settings["dims"][-layers:]}


def _one_layer(data: str, dims: tuple[int, ...] | None) -> dict:
    """LEBM's nets, and above z_1 one more layer of 200 for every further layer of a chain."""
    size, generator, encoder = _ONE_LAYER[data]
    layers = len(dims or (size,))
    return {
        "dims": (size,),
        "levels": (generator,),
        "stem": encoder,
        "trunk": ("fc 200",) * (layers - 1),
        "ladders": ("",) * layers,
    }


def _ladder(data: str) -> dict:
    """The nets behind the SVHN figure; for CelebA-64 the same pattern with one more level."""
    nets = {**_ICCV, **_FID}
    if data == "celeba64":  # not released: K and s as in the smaller SVHN run and table 4
        image, *rest = nets["levels"]
        nets |= {
            "dims": (*nets["dims"], 10),
            "levels": (image, "conv 256, up 256, conv 256", *rest),
            "trunk": ("down 128, conv 128", *nets["trunk"]),
            "ladders": ("down 128, conv 128", *nets["ladders"]),
            "prior_steps": 60,
            "prior_step_size": 0.4,
        }
    del nets["image"]
    return nets
