"""The small classifier: fitted, stored, and as accurate as its file says."""

import json

import pytest
import torch

from jlebm_core import checkpoints, data, paths
from jlebm_core.errors import UsageError
from jlebm_core.evaluate.classifier import (
    Classifier,
    augment,
    available,
    fit_classifier,
    load_classifier,
    recipe,
    save_classifier,
)


def toy(split, n, shape=(1, 28, 28), labels=True):
    """Images of one grey value, 25 levels apart, plus noise within 5: the label is the level."""
    generator = torch.Generator().manual_seed(len(split))
    y = torch.randint(0, 10, (n,), generator=generator)
    noise = torch.randint(0, 5, (n, *shape), generator=generator)
    images = (25 * y.view(-1, 1, 1, 1) + noise).to(torch.uint8)
    return data.ImageSet("toy", split, images, y if labels else None, None)


@pytest.fixture(scope="module")
def fitted():
    sets = toy("train", 3000), toy("test", 300)
    return fit_classifier(*sets, epochs=3, seed=0, batch_size=50, progress=False)


@pytest.mark.parametrize("name", available())
def test_shipped_classifier_reaches_its_recorded_accuracy(name):
    try:
        test = data.load(name, "test", download=False)
    except UsageError:
        pytest.skip(f"{name} is not on this machine")
    weights, meta = checkpoints.files(paths.shipped("checkpoints", f"classifier-{name}"))
    recorded = json.loads(meta.read_text())["accuracy"]
    labels = load_classifier(name).predict(test.images)
    measured = (labels == test.labels).double().mean().item()
    assert measured == pytest.approx(recorded, abs=2 / len(test))  # rounding may flip a tie
    least = {"mnist": 0.993, "fashion-mnist": 0.91, "cifar10-jpeg": 0.8}
    assert measured >= least.get(name, 0.9)
    assert weights.stat().st_size <= 2_000_000


def test_fit_separates_levels_and_returns_float16_weights(fitted):
    model, accuracy = fitted
    assert accuracy == 1.0 and not model.training
    state = model.state_dict()
    assert all(torch.equal(t, t.half().float()) for t in state.values() if t.dim() > 1)


def test_fit_is_determined_by_its_seed_and_leaves_the_global_one():
    sets, state = (toy("train", 60), toy("test", 20)), torch.get_rng_state()
    models = [fit_classifier(*sets, epochs=1, seed=s, progress=False)[0] for s in (0, 0, 1)]
    heads = [m.head.weight for m in models]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_file_gives_the_same_logits(fitted, monkeypatch, tmp_path):
    model, accuracy = fitted
    monkeypatch.setattr(paths, "shipped", lambda *parts: tmp_path.joinpath(*parts))
    save_classifier(model, "toy", accuracy=accuracy, seed=0, epochs=3)
    assert available() == ["toy"]
    x, state = toy("other", 50).images, torch.get_rng_state()
    again = load_classifier("toy")
    assert torch.equal(again(x), model(x))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 28, 32)])
def test_features_are_the_layer_below_the_logits(shape):
    model, x = Classifier(shape).eval(), toy("train", 3, shape).images
    features = model.features(x)
    assert features.shape == (3, 64) and features.min() >= 0
    assert torch.equal(model.head(features), model(x))


def test_predict_is_the_argmax_in_evaluation_mode_and_restores_the_mode():
    model, x = Classifier((1, 28, 28)), toy("train", 7).images
    labels = model.predict(x, batch_size=3)
    assert model.training
    assert torch.equal(labels, model.eval()(x).argmax(1))


def test_augmentation_keeps_plain_images_and_moves_a_dot_a_little():
    plain = torch.full((4, 3, 28, 28), 77, dtype=torch.uint8)
    assert torch.equal(augment(plain, torch.Generator().manual_seed(0)), plain)
    dots = torch.zeros(500, 1, 29, 29, dtype=torch.uint8)
    dots[:, :, 12:17, 12:17] = 255
    moved = augment(dots, torch.Generator().manual_seed(0)).double()
    axis, mass = torch.arange(29) - 14.0, moved.sum((1, 2, 3))
    for dim in (2, 3):  # at most 2 pixels along each axis, turned by 10 degrees, stretched by 10 %
        centre = (moved.sum((1, 5 - dim)) @ axis.double()) / mass
        assert 2 < centre.abs().max() < (2 + 2 * 0.1764) * 1.106
        assert centre.abs().mean() > 0.5 and abs(centre.mean()) < 4.5 * 1.2 / 500**0.5


def test_flip_mirrors_about_half_of_the_images_and_changes_nothing_else():
    x = toy("train", 400, (3, 28, 28)).images
    plain, moved = (
        augment(x, torch.Generator().manual_seed(0), flip=flip).int() for flip in (False, True)
    )
    as_it_was = (moved - plain).abs().flatten(1).amax(1) <= 1  # rounding may differ
    mirrored = (moved - plain.flip(-1)).abs().flatten(1).amax(1) <= 1
    assert (as_it_was ^ mirrored).all()
    assert abs(mirrored.double().mean() - 0.5) < 4.5 * 0.5 / 400**0.5


def test_recipes_are_those_of_the_shipped_files():
    for name in available():
        _, file = checkpoints.files(paths.shipped("checkpoints", f"classifier-{name}"))
        meta, how = json.loads(file.read_text()), recipe(name)
        built = meta["architecture"]
        assert (tuple(built["channels"]), built["dim"]) == (how.channels, how.dim)
        assert meta["epochs"] == how.epochs and meta["seed"] == 0


def test_wrong_use_is_one_sentence():
    with pytest.raises(UsageError, match="no classifier for 'svhn', only for .*mnist"):
        load_classifier("svhn")
    with pytest.raises(UsageError, match="lacks them"):
        fit_classifier(toy("train", 20), toy("test", 20, labels=False), progress=False)
    model = Classifier((1, 28, 28))
    for x in (torch.zeros(2, 1, 28, 28), torch.zeros(2, 3, 28, 28, dtype=torch.uint8)):
        with pytest.raises(UsageError, match="takes uint8 images"):
            model(x)
