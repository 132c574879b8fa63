"""Loading: names and splits, folders and .npz files, one clear sentence for what goes wrong."""

import zipfile

import numpy as np
import pytest
import torch
from conftest import pixels, sentence, write_images
from PIL import Image

from jlebm_core import data, glyphs
from jlebm_core.data import load


def test_eight_bits_round_trip_exactly():
    every = torch.arange(256, dtype=torch.uint8)
    x = data.to_float(every)
    assert x.dtype == torch.float32 and x[0] == -1 and x[255] == 1
    assert torch.equal(data.to_uint8(x), every)
    assert data.to_uint8(torch.tensor([-7.0, 7.0, 0.999])).tolist() == [0, 255, 255]


def test_glyphs_are_the_rendered_ones():
    for split, seed in (("train", 0), ("test", 1)):
        loaded = load("glyphs", split, limit=12)
        images, labels, factors = glyphs.render(12, seed=seed)
        assert (loaded.name, loaded.split, len(loaded)) == ("glyphs", split, 12)
        assert loaded.shape == (3, 32, 32) and torch.equal(loaded.images, images)
        assert torch.equal(loaded.labels, labels)
        assert all(torch.equal(loaded.factors[k], factors[k]) for k in glyphs.FACTORS)
    assert len(load("glyphs", "test")) == 4_000 and data.GLYPHS["train"] == (20_000, 0)


def test_folder_is_read_recursively_in_sorted_order(tmp_path):
    folder, arrays = tmp_path / "my photos", pixels(23, 6, 3, 3)  # 3 wide: C must not be guessed
    write_images(folder / "a", arrays[:15])
    write_images(folder / "b" / "deep", arrays[15:21], ".bmp")
    write_images(folder / "c", arrays[21:], ".PNG")
    (folder / "a" / "notes.txt").write_text("not an image")
    (folder / "a" / "._000.png").write_text("not an image either")
    train, test = load(str(folder)), load(str(folder), "test")
    assert (train.name, train.split, train.labels, train.factors) == (
        "my photos",
        "train",
        None,
        None,
    )
    assert train.shape == (3, 6, 3) and train.images.is_contiguous()
    expected = arrays.transpose(0, 3, 1, 2)
    kept = [6, 18, 21]  # one of ten in a/, one in b/deep/, one in c/
    assert np.array_equal(test.images.numpy(), expected[kept])
    assert np.array_equal(train.images.numpy(), np.delete(expected, kept, axis=0))
    assert torch.equal(load(str(folder), limit=4).images, train.images[:4])


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_are_read(tmp_path, suffix):
    write_images(tmp_path / "flat", np.full((2, 8, 8, 3), 200, dtype=np.uint8), suffix)
    assert (load(str(tmp_path / "flat")).images.int() - 200).abs().max() <= 3


def test_folder_is_grey_only_if_every_image_is(tmp_path):
    grey = pixels(4, 5, 6)
    write_images(tmp_path / "train", grey)
    write_images(tmp_path / "test", grey[:2])
    loaded = load(str(tmp_path), "train")
    assert loaded.shape == (1, 5, 6) and np.array_equal(loaded.images[:, 0].numpy(), grey)
    assert len(load(str(tmp_path), "test")) == 2
    write_images(tmp_path / "validation", pixels(1, 9, 9, 3))  # not ours to read
    assert load(str(tmp_path), "test").shape == (1, 5, 6)
    Image.fromarray(pixels(5, 6, 4), mode=None).save(tmp_path / "test" / "colour.png")
    loaded = load(str(tmp_path), "train")
    assert loaded.shape == (3, 5, 6) and (loaded.images == torch.from_numpy(grey)[:, None]).all()


def test_folder_complaints(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    assert f"{folder} holds no images" in sentence(str(folder))
    write_images(folder, pixels(3, 8, 6, 3))
    assert "3 images" in sentence(str(folder), "test")
    odd = folder / "100.png"
    odd.write_bytes((folder / "000.png").read_bytes()[:40])
    assert f"{odd} cannot be read as an image" in sentence(str(folder))
    blob = (folder / "000.png").read_bytes()
    odd.write_bytes(blob[: len(blob) - 60])  # the header is whole, the pixels are not
    assert f"{odd} cannot be read as an image" in sentence(str(folder))
    Image.fromarray(pixels(8, 7, 3)).save(odd)
    message = sentence(str(folder))
    assert f"{folder / '000.png'} is 6x8" in message and f"{odd} is 7x8" in message
    Image.fromarray(np.zeros((8, 6), dtype=np.uint16)).save(odd)
    assert f"{odd} is not an 8-bit image" in sentence(str(folder))
    (folder / "train").mkdir()
    (folder / "test").mkdir()
    assert f"{folder / 'train'} holds no images" in sentence(str(folder))


@pytest.mark.parametrize(
    "shape", [(20, 8, 6), (20, 8, 6, 1), (20, 1, 8, 6), (20, 8, 6, 3), (20, 3, 8, 6)]
)
def test_npz_shapes(tmp_path, shape):
    array, labels = pixels(*shape), np.arange(20, dtype=np.uint8)
    np.savez(tmp_path / "own.npz", images=array, labels=labels)
    train, test = (load(str(tmp_path / "own.npz"), split) for split in ("train", "test"))
    channels_first = {3: lambda a: a[:, None], 4: lambda a: np.moveaxis(a, -1, 1)}[array.ndim](
        array
    )
    expected = array if shape[1] in (1, 3) else channels_first
    assert train.name == "own" and train.shape == expected.shape[1:]
    assert np.array_equal(test.images.numpy(), expected[[6, 12]])  # one of every ten
    assert np.array_equal(train.images.numpy(), np.delete(expected, [6, 12], axis=0))
    assert test.labels.tolist() == [6, 12] and train.labels.dtype == torch.int64
    assert load(str(tmp_path / "own.npz"), limit=3).labels.tolist() == [0, 1, 2]


def test_npz_with_a_test_set_of_its_own(tmp_path):
    images, test = pixels(11, 4, 4), pixels(2, 4, 4, seed=1)
    file = str(tmp_path / "own.npz")
    np.savez_compressed(file, images=images, images_test=test, labels_test=np.array([3, 1]))
    assert np.array_equal(load(file).images[:, 0].numpy(), images) and load(file).labels is None
    assert np.array_equal(load(file, "test").images[:, 0].numpy(), test)
    assert load(file, "test").labels.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"x": pixels(3, 4, 4), "y": pixels(3)}, "no array named images, only: x, y"),
        ({}, "no array named images, only: none"),
        ({"images": np.zeros((3, 4, 4), dtype=np.float32)}, "the type is float32"),
        ({"images": np.array([{}, {}])}, "cannot be read as an .npz file"),  # would need pickle
        ({"images": pixels(4, 4)}, "the shape is (4, 4)"),
        ({"images": pixels(3, 4, 4, 4)}, "the shape is (3, 4, 4, 4)"),
        ({"images": pixels(3, 3, 4, 3)}, "the shape is (3, 3, 4, 3)"),  # which axis is C?
        ({"images": pixels(0, 4, 4)}, "the shape is (0, 4, 4)"),
        ({"images": pixels(0, 4, 4, 3)}, "the shape is (0, 4, 4, 3)"),
        ({"images": pixels(3, 4, 4), "labels": np.zeros(4, dtype=int)}, "of shape (4,)"),
        ({"images": pixels(3, 4, 4), "labels": np.zeros(3)}, "labels: float64"),
        ({"images": pixels(3, 4, 4), "images_test": np.zeros((2, 4))}, "images_test: the type is"),
        ({"images": pixels(3, 4, 4), "images_test": pixels(3, 4, 5)}, "images_test are (1, 4, 5)"),
    ],
)
def test_npz_complaints(tmp_path, arrays, complaint):
    file = tmp_path / "own.npz"
    np.savez(file, **arrays)
    for split in ("train", "test") if "images_test" in arrays else ("train",):
        message = sentence(str(file), split)
        assert str(file) in message and complaint in message


def test_corrupt_npz_is_named(tmp_path):
    file = tmp_path / "own.npz"
    np.savez(file, images=pixels(30, 8, 8))
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for broken in (b"", b"not a zip", whole[: len(whole) // 2], bytes(flipped)):
        file.write_bytes(broken)
        assert f"{file} cannot be read as an .npz file" in sentence(str(file))
    np.save(tmp_path / "array.npy", pixels(30, 8, 8))
    (tmp_path / "array.npy").rename(file)  # an .npy under a wrong name
    assert f"{file} cannot be read as an .npz file" in sentence(str(file))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images", "text")
    assert str(file) in sentence(str(file))


def test_names_paths_splits_and_limits(tmp_path):
    message = sentence("minst")
    assert all(name in message for name in data.NAMES) and "path" in message
    for missing in (tmp_path / "nowhere", tmp_path / "nowhere.npz"):
        assert sentence(str(missing)) == f"{missing} does not exist."
    assert sentence("nowhere.npz") == "nowhere.npz does not exist."
    (tmp_path / "list.txt").write_text("")
    assert "neither a folder" in sentence(str(tmp_path / "list.txt"))
    assert "train, test" in sentence("glyphs", "validation")
    assert "limit is 0" in sentence("glyphs", limit=0)


def test_own_data_may_not_take_a_built_in_name(tmp_path):
    np.savez(tmp_path / "mnist.npz", images=np.zeros((3, 28, 28), np.uint8))
    assert "has the name of a built-in data set" in sentence(str(tmp_path / "mnist.npz"))
