"""Exports: a description means what the modules compute, and what cannot be said is refused."""

import json

import ipywidgets
import numpy as np
import pytest
import torch
from conftest import EXPLORABLE, REFUSED, slider_values
from ipywidgets.embed import dependency_state
from torch import nn

from jlebm_core import cli, systems
from jlebm_core.configs import Config
from jlebm_core.errors import UsageError
from jlebm_core.explorer import LatentExplorer, describe, export, read
from jlebm_core.explorer.export import Program, encoder_program, generator_program
from jlebm_core.priors import EBMPrior, StandardNormal

ACTS = {
    "none": lambda x, slope: x,
    "lrelu": lambda x, slope: np.where(x > 0, x, slope * x),
    "tanh": lambda x, slope: np.tanh(x),
    "silu": lambda x, slope: x / (1 + np.exp(-x)),
    "gelu": lambda x, slope: nn.functional.gelu(torch.from_numpy(x)).numpy(),
}


def convolve(x, weight, stride, padding):
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    side = weight.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(1, 2))
    return np.einsum("chwij,ocij->ohw", windows[:, ::stride, ::stride], weight)


def convolve_transposed(x, weight, stride, padding):
    (_, h, w), (_, outputs, side, _) = x.shape, weight.shape
    y = np.zeros((outputs, (h - 1) * stride + side, (w - 1) * stride + side))
    for i in range(h):
        for j in range(w):
            at = np.s_[:, i * stride : i * stride + side, j * stride : j * stride + side]
            y[at] += np.einsum("c,coij->oij", x[:, i, j], weight)
    return y[:, padding : y.shape[1] - padding, padding : y.shape[2] - padding]


def interpret(program, tensors, x):
    """What ``program`` says, one operation after the other, in 64 bits."""

    def tensor(name):
        t = tensors[name].double().numpy()
        scale = tensors.get(name + ".scale")
        return t if scale is None else t * scale.double().numpy().reshape(-1, *[1] * (t.ndim - 1))

    values = {"input": np.asarray(x, float).reshape(program["shape"])}
    for op in program["ops"]:
        args = [values[name] for name in op["in"]]
        if "weight" in op:
            weight, bias = tensor(op["weight"]), tensor(op["bias"])
        match op["op"]:
            case "linear":
                y = weight @ args[0].ravel() + bias
            case "conv":
                y = convolve(args[0], weight, op["stride"], op["padding"]) + bias[:, None, None]
            case "convT":
                y = convolve_transposed(args[0], weight, op["stride"], op["padding"])
                y += bias[:, None, None]
            case "act":
                y = ACTS[op["name"]](args[0], op.get("slope"))
            case "reshape":
                y = args[0].reshape(op["shape"] or -1)
            case "slice":
                y = args[0][op["start"] : op["end"]]
            case "concat":
                y = np.concatenate(args)
            case "add":
                y = args[0] + args[1]
            case "draw":
                y = args[0] + (op["floor"] + np.exp(np.minimum(args[1], op["most"]))) * args[2]
        values[op["out"]] = y
    return values[program["ops"][-1]["out"]]


def lived_in(system):
    """The system after batches have gone through it: every statistic and offset off its start."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in system.parameters():
            p += 0.05 * torch.randn(p.shape, generator=rng)
        for _ in range(5):
            z = torch.randn(20, system.prior.dim, generator=rng)
            x = system.generator.mean(z)
            if hasattr(system.inference, "posterior"):
                system.inference.posterior(x + 0.1 * torch.randn(x.shape, generator=rng))
    return system.eval()


LADDER = {
    "dims": (2, 3),
    "levels": ("up 6, conv C tanh", "fc 12, map 4 4"),
    "trunk": ("down 4",),
    "ladders": ("down 3", "down 5, fc 9"),
    "prior_hidden": (7, 7),
}
NETS = {
    "concat, norm": {**LADDER, "norm": True, "bias": False},
    "add, norm": {**LADDER, "join": "add", "norm": True, "act": "silu"},
    "gelu, spectral norm": {**LADDER, "act": "gelu", "prior_act": "gelu", "spectral_norm": 0.5},
    "layers that enter in turn": {**LADDER, "enter": (0.5, 0.0)},
    "one layer": {
        "dims": (4,),
        "levels": ("seed 6 2, up 5, up C tanh",),
        "ladders": ("down 4, conv 3, fc 8 relu",),
    },
}


def small(options):
    config = Config(system="joint-ebm", data="toy", image=(3, 8, 8), **options)
    return lived_in(systems.build(config, seed=0))


@pytest.mark.parametrize("name", NETS)
def test_programs_are_the_networks(name):
    system, rng = small(NETS[name]), torch.Generator().manual_seed(2)
    z = torch.randn(4, system.prior.dim, generator=rng)
    x = system.decode(z)
    forward = generator_program(system.generator, system.prior)
    back = encoder_program(system.inference, system.config.image)
    for one, image, code in zip(z, x, system.encode(x), strict=True):
        found = interpret(forward.to_json(), forward.tensors, one)
        np.testing.assert_allclose(found, image, atol=1e-5)
        found = interpret(back.to_json(), back.tensors, image)
        np.testing.assert_allclose(found, code, atol=1e-4)


@pytest.mark.parametrize("act", ["lrelu", "lrelu0.01", "relu", "gelu", "silu", "tanh"])
def test_f_is_exported_with_its_scale(act):
    system = small({**LADDER, "prior_act": act, "spectral_norm": 2.0})
    done = describe(system)
    f, tensors = done.description["prior"]["f"], done.tensors
    z = torch.randn(5, 5, generator=torch.Generator().manual_seed(3))
    h = z.double().numpy()
    for i, (w, b) in enumerate(f["layers"]):
        h = h @ tensors[w].double().numpy().T + tensors[b].double().numpy()
        h = h if i == len(f["layers"]) - 1 else ACTS[f["act"]](h, f["slope"])
    scale = 2.0 * 2**-10  # half the spacing of float16 at 1, times the Lipschitz constant, ..
    bound = 4 * scale * z.norm(dim=1).max().item()  # .. for each of three layers, rounded up
    np.testing.assert_allclose(h[:, 0], system.prior.f(z).detach(), atol=bound)


@pytest.mark.parametrize("name", EXPLORABLE)
def test_shipped_models_export_within_a_grey_level(name, tmp_path):
    system = systems.shipped(name)
    export(system, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").stat().st_size <= 2e6
    done = read(tmp_path / "x.safetensors")
    kinds = {k: t.dtype for k, t in done.tensors.items() if k.startswith("g")}
    assert set(kinds.values()) == {torch.float16, torch.float32}
    z = system.prior.sample(3, rng=torch.Generator().manual_seed(4))
    x = system.decode(z)
    for one, image in zip(slider_values(system, z), x, strict=True):
        found = interpret(done.description["generator"], done.tensors, one)
        assert np.abs(found - image.numpy()).max() * 127.5 < 1
    if done.description["encoder"] is None:
        assert not system.inference.amortised or hasattr(system.prior, "to_noise")
        return
    codes = system.encode(x)
    for image, code in zip(x, codes, strict=True):
        found = interpret(done.description["encoder"], done.tensors, image)
        assert np.abs(found - code.numpy()).max() < 0.1  # 8 bits: of codes with spread 1 and more


@pytest.mark.parametrize("row", systems.SYSTEMS)
def test_every_row_of_the_table_is_exported_or_refused_by_name(row):
    system = systems.build(systems.configure(row, "mnist", (1, 28, 28)), seed=0)
    if row in REFUSED:
        with pytest.raises(UsageError, match=f"prior {REFUSED[row]}"):
            describe(system)
        return
    if "ncp" in row:
        system.prior.net.on.fill_(1)  # every ratio has been learned
    system = lived_in(system)
    done = describe(system)
    eps = torch.randn(2, system.prior.dim, generator=torch.Generator().manual_seed(5))
    chain = done.description["symbol"] == "ε" and hasattr(system.prior, "from_noise")
    x = system.decode(system.prior.from_noise(eps) if chain else eps)
    for one, image in zip(eps, x, strict=True):
        found = interpret(done.description["generator"], done.tensors, one)
        np.testing.assert_allclose(found, image, atol=2 / 255)
    h, f = eps.double().numpy(), done.description["prior"]["f"]
    for i, (w, b) in enumerate(f["layers"]):
        h = h @ done.tensors[w].double().numpy().T + done.tensors[b].double().numpy()
        h = h if i == len(f["layers"]) - 1 else ACTS[f["act"]](h, f["slope"])
    if f["layers"]:
        np.testing.assert_allclose(h[:, 0], system.prior.f(eps).detach(), atol=0.02)


def test_unknown_parts_are_refused_by_name():
    with pytest.raises(UsageError, match="layer Dropout"):
        Program("g", (3,)).run(nn.Sequential(nn.Linear(3, 4), nn.Dropout()), "input")
    with pytest.raises(UsageError, match="layer Conv2d.*dilation"):
        Program("g", (3, 8, 8)).run(nn.Conv2d(3, 4, 3, dilation=2), "input")
    with pytest.raises(UsageError, match="batch normalisation"):
        norm = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4))
        Program("g", (3,)).run(norm, "input")
    with pytest.raises(UsageError, match="generator Linear"):
        generator_program(nn.Linear(1, 1), StandardNormal((1,)))
    with pytest.raises(UsageError, match="prior Linear"):
        describe(nn.Linear(1, 1))


def test_an_encoder_comes_along_if_it_fits():
    options = {**LADDER, "ladders": ("fc 9000", "down 5, fc 9")}  # 1.7 MB in 8 bits
    system = small(options)
    assert describe(system).description["encoder"]
    system = small({**options, "ladders": ("fc 9000", "down 5, fc 9000")})
    assert describe(system, encoder=None).description["encoder"] is None
    with pytest.raises(UsageError, match="MB.*leave the encoder out"):
        describe(system, encoder=True).to_bytes()
    assert describe(system, encoder=False).to_bytes()


def test_export_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "deep" / "vlae.safetensors"
    command = ["export", "vlae-mnist-s0", "--out", str(out), "--title", "VLAE"]
    assert cli.main(command) == 0
    assert read(out).description["title"] == "VLAE" and read(out).description["encoder"]
    assert f"{out.stat().st_size:,} bytes" in capsys.readouterr().out
    assert cli.main([*command, "--no-encoder"]) == 0 and not read(out).description["encoder"]
    nothing = tmp_path / "x.safetensors"
    assert cli.main(["export", "nothing", "--out", str(nothing)]) == 2
    assert "no trained system" in capsys.readouterr().err and not nothing.exists()


def test_codes_of_images_come_along_under_a_name_of_their_own(tmp_path):
    codes = torch.randn(7, 4, generator=torch.Generator().manual_seed(6))
    blob = describe(EBMPrior((2, 2), (5,)), name="clouds", codes=codes).to_bytes()
    (tmp_path / "x").write_bytes(blob)
    done = read(tmp_path / "x")
    assert done.description["name"] == "clouds" and torch.equal(done.tensors["codes"], codes.half())
    for wrong in (codes[:, :3], codes[0]):
        with pytest.raises(UsageError, match=r"expected \(N, 4\)"):
            describe(EBMPrior((2, 2), (5,)), codes=wrong)
    chain = systems.build(systems.configure("lvae", "mnist", (1, 28, 28)), seed=0)
    with pytest.raises(UsageError, match="not made of noises"):
        describe(chain, codes=torch.zeros(3, chain.prior.dim))


def test_what_is_no_export_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"something else")
    for file in (tmp_path / "x", tmp_path / "none"):
        with pytest.raises(UsageError, match="no export"):
            read(file)


def sliders(box):
    """All FloatSliders below a widget, in order."""
    found = [box] if type(box).__name__ == "FloatSlider" else []
    return found + [s for child in getattr(box, "children", ()) for s in sliders(child)]


def test_one_group_of_sliders_for_each_kind_of_code():
    a, b = StandardNormal((1, 2)), EBMPrior((2,), f=(5,))
    explorer = LatentExplorer({"two layers": a, "one": b, "again": StandardNormal((1, 2))})
    canvas, first, second = explorer.children
    assert canvas.titles == ["two layers", "one", "again"] and canvas.forms == ["1-2", "2"]
    assert [s.description for s in sliders(first)] == ["1", "2", "1"]  # top layer first
    assert [g.layout.display for g in (first, second)] == ["flex", "none"]
    assert len(sliders(second)) == 2
    assert explorer.z.tolist() == pytest.approx(describe(a).description["start"])
    explorer.z = torch.tensor([0.1, -0.2, 0.3])
    assert canvas.code == pytest.approx([0.1, -0.2, 0.3])


def all_of(controls):
    """The widgets in an entry of the canvas's controls."""
    if isinstance(controls, ipywidgets.Widget):
        return [controls]
    parts = controls.values() if isinstance(controls, dict) else controls or ()
    return [w for part in parts for w in all_of(part)]


def models(widget):
    """The states that a page gets of a widget, by the names of their models."""
    states = dependency_state([widget], drop_defaults=False)
    return sorted((s["model_name"], key, s["state"]) for key, s in states.items())


@pytest.mark.parametrize("dims", [(2,), (1, 2), (1, 2, 3)])
def test_the_canvas_names_its_controls_and_nothing_is_linked(dims):
    """Colab's manager fetches what another widget names: a link would never come."""
    explorer = LatentExplorer([StandardNormal(dims), StandardNormal((4,))])
    found = models(explorer)
    assert not [name for name, _, _ in found if "Link" in name]
    states = {f"IPY_MODEL_{key}": (name, state) for name, key, state in found}
    first, second = next(s["controls"] for _, _, s in found if "controls" in s)
    assert [len(layer["sliders"]) for layer in first["layers"]] == list(dims)  # bottom layer first
    assert [len(layer["sliders"]) for layer in second["layers"]] == [4]
    names = [states[key][0] for layer in first["layers"] for key in layer["sliders"]]
    assert names == ["FloatSliderModel"] * sum(dims)
    for layer in first["layers"]:
        assert states[layer["head"]][0] == "HTMLModel"
        keep = layer["keep"] and states[layer["keep"]][0]
        assert keep == ("CheckboxModel" if len(dims) > 1 else None)
    assert [states[form["layout"]][1]["display"] for form in (first, second)] == ["flex", "none"]


def test_the_controls_are_made_before_the_canvas_that_names_them(monkeypatch):
    made = []
    monkeypatch.setattr(ipywidgets.Widget, "_widget_construction_callback", made.append)
    explorer = LatentExplorer([StandardNormal((1, 2)), StandardNormal((4,))])
    named = [s for form in explorer.canvas.controls for s in all_of(form)]
    order = [made.index(w) for w in named]
    assert len(order) == 8 + 6 and max(order) < made.index(explorer.canvas)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"z": torch.zeros(3)}, "z must have the shape (2,), not (3,)"),
        ({"z": torch.zeros(1, 2)}, "not (1, 2)"),
        ({"images": torch.zeros(4, 1, 8, 8)}, "not float32 of shape (4, 1, 8, 8)"),
        ({"images": {"a": torch.zeros(1, 8, 8).byte()}}, "not uint8 of shape (1, 8, 8)"),
    ],
)
def test_what_the_explorer_cannot_show_is_refused(options, says):
    with pytest.raises(UsageError) as error:
        LatentExplorer(EBMPrior((2,), f=(5,)), **options)
    assert says in str(error.value)


def test_no_system_and_a_code_set_later_are_refused_too():
    with pytest.raises(UsageError, match="needs a system"):
        LatentExplorer([])
    explorer = LatentExplorer(EBMPrior((2,), f=(5,)))
    before = explorer.z
    with pytest.raises(UsageError, match="z must have"):
        explorer.z = torch.zeros(3)
    assert explorer.z.equal(before)


def test_the_widget_carries_the_export_and_one_script():
    prior = EBMPrior((2,), f=(5,))
    explorer = LatentExplorer(describe(prior, notes=["two numbers"]), z=torch.tensor([1.0, 2.0]))
    blob = explorer.canvas.exports[0]
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    description = json.loads(header["__metadata__"]["description"])
    assert description["notes"] == ["two numbers"] and description["generator"] is None
    assert [s.value for s in sliders(explorer)] == [1.0, 2.0]
    script = explorer.canvas._esm
    assert "import " not in script and script.count("export default") == 1
