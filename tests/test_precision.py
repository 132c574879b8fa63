"""What "auto" means on a device, and that a record says which precision a training had."""

import pytest
import torch

from jlebm_core import data, results, systems
from jlebm_core.errors import UsageError
from jlebm_core.precision import has_bf16, resolve_precision
from jlebm_core.training.trainer import Trainer


def test_auto_is_bf16_where_committed_results_were_made_and_where_it_is_native():
    assert resolve_precision("auto", torch.device("cpu")) == "bf16"
    for name in ("mps", "xpu", "meta"):  # nothing is known of them
        assert resolve_precision("auto", torch.device(name)) == "float32"


@pytest.mark.parametrize(
    ("gpu", "capability"),
    [("P100", (6, 0)), ("V100", (7, 0)), ("T4", (7, 5))],
)
def test_older_gpus_have_no_bf16(gpu, capability):
    assert not has_bf16(capability)


@pytest.mark.parametrize(
    ("gpu", "capability"),
    [("A100", (8, 0)), ("L4", (8, 9)), ("H200", (9, 0)), ("B200", (10, 0)), ("RTX 5090", (12, 0))],
)
def test_newer_gpus_have_bf16(gpu, capability):
    assert has_bf16(capability)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_auto_on_this_gpu_is_what_it_computes_in():
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    assert resolve_precision("auto", torch.device("cuda")) == ("bf16" if native else "float32")


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_a_named_precision_stays(precision):
    for device in ("cpu", "cuda", "mps"):
        assert resolve_precision(precision, torch.device(device)) == precision


@pytest.mark.parametrize("precision", ["fp16", "float64", "", None])
def test_another_word_is_one_sentence(precision):
    with pytest.raises(UsageError, match=r"one of auto, bf16, float32, not .*\.$"):
        resolve_precision(precision, torch.device("cpu"))


def test_a_trainer_and_its_record_say_what_auto_was():
    images = data.load("glyphs", limit=8)
    config = systems.configure("vae", "glyphs", images.shape, budget="smoke", batch=4, steps=1)
    losses = {}
    for precision in (None, "bf16", "float32"):
        how = {} if precision is None else {"precision": precision}
        trainer = Trainer(systems.build(config), images.images, **how)
        trainer.run(1)
        record = results.record(trainer, budget="smoke", device="cpu")
        assert record["precision"] == (precision or "bf16")
        losses[precision] = trainer.log["nll"]
    assert losses[None] == losses["bf16"] != losses["float32"]
    with pytest.raises(UsageError, match="precision must be one of"):
        Trainer(systems.build(config), images.images, precision="half")
