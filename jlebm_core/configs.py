"""Settings as plain data: one ``Config``, the nets all systems share, the published settings."""

from dataclasses import asdict, dataclass, fields

from .errors import UsageError
from .nets import Shape


@dataclass(frozen=True)
class Config:
    """Everything that defines and trains a system (JSON in every checkpoint).

    Tuples of layers are bottom-up: the layer next to the image first. ``levels``, ``trunk`` and
    ``ladders`` are stacks of layers written as text (see ``nets.stack``).
    """

    system: str
    data: str
    image: Shape  # (C, H, W)
    # networks
    dims: tuple[int, ...]  # d_1 .. d_L
    levels: tuple[str, ...]  # generator stacks g_1 .. g_L
    trunk: tuple[str, ...] = ()  # encoder blocks between the layers, L - 1 of them
    ladders: tuple[str, ...] = ()  # encoder stacks that read each layer off the trunk, L of them
    join: str = "concat"  # how z_i meets h_{i+1}: "concat" or "add"
    act: str = "lrelu"
    encoder_act: str = "lrelu"
    norm: bool = False  # batch normalisation in generator and encoder
    bias: bool = True  # of the convolutions
    sigma: float = 0.3  # x ~ N(h_1, sigma^2 I), pixels in [-1, 1]
    # EBM prior
    prior_hidden: tuple[int, ...] = (100, 100)
    prior_act: str = "lrelu"
    spectral_norm: float | None = None  # Lipschitz constant of f; None leaves f free
    prior_steps: int = 60  # K
    prior_step_size: float = 0.4  # s
    # posterior by Langevin dynamics
    posterior_steps: int = 20
    posterior_step_size: float = 0.1
    # training
    steps: int = 6000
    batch: int = 100
    lr: float = 3e-4  # Adam, generator and encoder
    lr_prior: float = 5e-5  # Adam, f
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0  # coupled L2, generator and encoder
    lr_decay: str = "cosine"  # to 0 at the last step; "epoch": times 0.998 an epoch; "none"
    warmup: int = 0  # steps over which KL - f comes in
    kl: str = "exact"  # or "monte-carlo", the authors' one-sample estimate
    penalty: float = 0.0  # on f^2

    def to_json(self) -> dict:
        """The fields, as JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict) -> "Config":
        """The inverse of ``to_json``. Raises UsageError for missing or unknown fields."""
        unknown = set(record) - {f.name for f in fields(cls)}
        if unknown:
            raise UsageError(f"unknown settings: {', '.join(sorted(unknown))}.")
        try:
            return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in record.items()})
        except TypeError as error:
            raise UsageError(f"this is no configuration of a system: {error}.") from None


# How our own rows are trained, where the published settings are not asked for.
_TRAINING = {
    "sigma": 6**-0.5,  # weight 3 on the squared error, as in the authors' smaller SVHN net
    "prior_hidden": (200, 200),
    "steps": 8000,
    "lr": 1e-3,
    "lr_prior": 1e-4,
    "warmup": 1000,
    "penalty": 0.01,
    "norm": True,
    "bias": False,
}

# The nets of every system, by the side of the image. C stands for the image's channels.
# Each layer of codes meets less network than the one above it, in both directions: the top goes
# through all of it, the bottom through two convolutions. Which layer holds what is decided here.
NETS: dict[int, dict] = {
    28: {
        **_TRAINING,
        "dims": (2, 2, 6),
        "levels": ("conv 64, up 32, up C tanh", "map 16 7", "fc 256, fc 256, fc 256"),
        "trunk": ("down 32, down 64, conv 16", "fc 256"),
        "ladders": ("down 32", "fc 64", "fc 256, fc 256"),
    },
    32: {  # after the authors' hierarchical-sampling net (ICCV 2023): four layers
        **_TRAINING,
        "dims": (2, 2, 2, 10),
        "levels": ("up 32, conv C tanh", "up 64, conv 32", "map 64 4, up 64", "fc 256, fc 256"),
        "trunk": ("down 32", "down 64", "down 64, conv 16, fc 256"),
        "ladders": ("down 32", "down 64", "down 64, conv 16", "fc 256, fc 256"),
    },
}

# Langevin inference runs the generator inside its chains: each step is many times the work, and
# batch normalisation is out, since it would mix the chains of a batch.
LANGEVIN: dict = {"norm": False, "bias": True, "steps": 3500}

# Changes to the settings for a shorter run than the default.
BUDGETS: dict[str, dict] = {"cpu": {}, "smoke": {"steps": 20, "warmup": 10, "batch": 25}}

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

# Published settings by name: (system, data, settings). Steps = epochs x images / batch.
PRESETS: dict[str, tuple[str, str, dict]] = {
    "iccv2023-svhn-fid": (
        "joint-ebm",
        "svhn-extra",
        {
            **_ICCV,
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
            "image": (3, 32, 32),
            "dims": (100,),
            "levels": ("seed 512 4, up 256, up 128, up C tanh",),
            "prior_hidden": (200, 200),
            "lr": 1e-4,
            "lr_prior": 2e-5,
            "betas": (0.5, 0.999),
            "lr_decay": "epoch",
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
