"""Settings as plain data: one ``Config``, the nets all systems share, what each row trains with."""

from dataclasses import asdict, dataclass, fields

from .errors import UsageError
from .presets import PRESETS as PRESETS
from .settings import Shape, check, check_shape


@dataclass(frozen=True)
class Config:
    """Everything that defines and trains a system (JSON in every checkpoint).

    Tuples of layers are bottom-up: the layer next to the image first. ``levels``, ``trunk`` and
    ``ladders`` are stacks of layers written as text (see ``nets.stack``). Raises UsageError for a
    value that a setting cannot have (see ``settings.RULES``).
    """

    system: str
    data: str
    image: Shape  # (C, H, W)
    # networks
    dims: tuple[int, ...]  # d_1 .. d_L
    levels: tuple[str, ...]  # generator stacks g_1 .. g_L
    trunk: tuple[str, ...] = ()  # encoder blocks between the layers, L - 1 of them
    ladders: tuple[str, ...] = ()  # encoder stacks that read each layer off the trunk, L of them
    stem: str = ""  # encoder stack beneath trunk and ladders
    join: str = "concat"  # how z_i meets h_{i+1}: "concat" or "add"
    act: str = "lrelu"
    encoder_act: str = "lrelu"
    norm: bool = False  # batch normalisation in generator and encoder
    bias: bool = True  # of the convolutions
    sigma: float = 0.3  # x ~ N(h_1, sigma^2 I), pixels in [-1, 1]
    learn_sigma: bool = False  # then sigma is where it starts
    # learned priors: f, the logit of a ratio, a second VAE
    prior_hidden: tuple = (100, 100)  # widths; one tuple for each layer where there are several f
    prior_act: str = "lrelu"
    spectral_norm: float | None = None  # Lipschitz constant of f; None leaves f free
    prior_steps: int = 60  # K
    prior_step_size: float = 0.4  # s
    ratios: int = 1  # density ratios in the prior, learned one after the other
    components: int = 10  # of a normal mixture
    # Gaussian chain
    chain_hidden: tuple[int, ...] = (200, 200)  # widths of each conditional
    chain_floor: float = 0.01  # sigma_i is above it
    # posterior by Langevin dynamics
    posterior_steps: int = 20
    posterior_step_size: float = 0.1
    # training
    steps: int = 6000
    batch: int = 100
    lr: float = 3e-4  # Adam, generator and encoder
    lr_prior: float = 5e-5  # Adam, the prior where it has a loss of its own
    lr_chain: float = 1e-4  # Adam, the Gaussian chain beneath a tilt
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0  # coupled L2, generator and encoder
    lr_decay: str = "cosine"  # to 0 at the last step; "epoch": times 0.998 an epoch; "none"
    warmup: int = 0  # steps over which KL - f comes in
    enter: tuple[float, ...] = ()  # share of the steps before each layer enters; () is at once
    kl: str = "exact"  # or "monte-carlo", the authors' one-sample estimate
    penalty: float = 0.0  # on f^2
    free_bits: float = 0.0  # nats a group of latents that the KL does not press
    code_penalty: float = 0.0  # on |z|^2 / 2 in a regularised autoencoder
    decoder_penalty: float = 0.0  # on the squared weights of its decoder
    ema: float = 0.0  # decay of the averaged weights that are kept at the end; 0 keeps the last
    fit_steps: int = 0  # of the second stage, where the prior learns afterwards

    def __post_init__(self):
        check(vars(self))

    def check_images(self, shape: Shape) -> None:
        """Raise UsageError unless ``shape`` (C, H, W) is that of the images the system takes."""
        check_shape(self.image, shape)

    def to_json(self) -> dict:
        """The fields, as JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict) -> "Config":
        """The inverse of ``to_json``. Raises UsageError for missing or unknown fields."""
        settings = known_settings(record)
        try:
            return cls(**settings)
        except TypeError as error:
            raise UsageError(f"this is no configuration of a system: {error}.") from None


def known_settings(record: dict) -> dict:
    """Settings as ``Config`` holds them, lists made tuples. Raises UsageError for a name that it
    does not know and for a value that the rules do not allow."""
    unknown = set(record) - {f.name for f in fields(Config)}
    if unknown:
        raise UsageError(f"unknown settings: {', '.join(sorted(unknown))}.")
    settings = {k: _tuples(v) for k, v in record.items()}
    check(settings)
    return settings


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


# How our own rows are trained, on any nets, where the published settings are not asked for.
TRAINING = {
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
        "dims": (2, 2, 6),
        "levels": ("conv 64, up 32, up C tanh", "map 16 7", "fc 256, fc 256, fc 256"),
        "trunk": ("down 32, down 64, conv 16", "fc 256"),
        "ladders": ("down 32", "fc 64", "fc 256, fc 256"),
    },
    # After the authors' hierarchical-sampling net (ICCV 2023): four layers; a map of 32 channels in
    # place of 64, so that the latent explorer can carry generator and encoder on a page.
    32: {
        "dims": (2, 2, 2, 10),
        "levels": ("up 32, conv C tanh", "up 64, conv 32", "map 32 4, up 64", "fc 256, fc 256"),
        "trunk": ("down 32", "down 64", "down 64, conv 16, fc 256"),
        "ladders": ("down 32", "down 64", "down 64, conv 16", "fc 256, fc 256"),
    },
    64: {  # one more doubling at the bottom, one more layer
        "dims": (2, 2, 4, 4, 20),
        "levels": (
            "up 32, conv C tanh",
            "up 32, conv 32",
            "up 64, conv 32",
            "map 64 4, up 64",
            "fc 512, fc 512",
        ),
        "trunk": ("down 32", "down 32", "down 64", "down 64, conv 16, fc 512"),
        "ladders": ("down 32", "down 32", "down 64", "down 64, conv 16", "fc 512, fc 512"),
    },
}

# Langevin inference runs the generator inside its chains: each step is many times the work, and
# batch normalisation is out, since it would mix the chains of a batch.
LANGEVIN: dict = {"norm": False, "bias": True, "steps": 3500}

# Where a row differs from that: what its paper prescribes, and as many steps as twenty minutes on
# one core allow. Free bits are fewer than BIVA's 2.0: our variables have one dimension, its up to
# 48; .5 was not compared with others. Langevin chains of step s on a Gaussian chain need sigma_i >
# s / 2. The other settings of _CHAIN were changed together after trials of 300 to 500 steps in
# which f and the codes ran away, for stability but with FID in view; probably because a Gaussian
# chain, unlike N(0, I), gives way to codes that spread. Which of them matters was not isolated.
_CHAIN = {"chain_floor": 0.3, "lr_chain": 1e-5, "penalty": 0.1, "warmup": 100}
OWN: dict[str, dict] = {
    "abp": LANGEVIN,
    "sri": {**LANGEVIN, "steps": 2800},
    "lvae": {"warmup": 4000},
    "biva": {"free_bits": 0.5, "ema": 0.999},
    "2s-vae": {"learn_sigma": True, "fit_steps": 6000, "lr_prior": 1e-3},
    "rae": {"code_penalty": 1.0, "decoder_penalty": 1e-3},
    "ncp-vae": {"fit_steps": 4000, "lr_prior": 1e-3, "penalty": 0.0},
    "multi-ncp": {**LANGEVIN, "ratios": 2, "lr_prior": 1e-3, "penalty": 0.001},
    "lebm": LANGEVIN,
    "joint-ebm-mle": LANGEVIN,
    "layerwise-ebm": {**LANGEVIN, **_CHAIN, "steps": 2300},
    "layerwise-ebm-vi": {**_CHAIN, "steps": 5600},
}

# Changes to the settings for a shorter run than the default. "paper" is in ``presets``.
BUDGETS: dict[str, dict] = {
    "cpu": {},
    "smoke": {"steps": 20, "warmup": 10, "batch": 25, "fit_steps": 20},
    "paper": {},
}


def within(budget: str, settings: dict) -> dict:
    """``settings`` with what ``budget`` changes: it shortens what they have, and adds nothing."""
    defaults = {f.name: f.default for f in fields(Config)}
    changes = BUDGETS[budget].items()
    return settings | {k: v for k, v in changes if settings.get(k, defaults[k])}
