"""Images of a person's own are what the person sees, or refused; what is done to them is said."""

import os

import numpy as np
import pytest
import torch
from conftest import pixels, sentence, write_images
from PIL import Image, ImageOps

from jlebm_core.data import SPLITS, load

INK = np.zeros((8, 8), np.uint8)
INK[2:6, 3:5] = 255  # where the ink is


def said(capsys):
    return capsys.readouterr().err.strip()


def clear(mode, ink=0):
    """Ink on a transparent ground whose hidden colour is the ink's own."""
    grey = Image.new("L", (8, 8), ink)
    image = Image.merge("LA", (grey, Image.fromarray(INK)))
    if mode == "P":
        image = Image.fromarray(INK // 255, mode="P")
        image.putpalette([ink] * 6)
        image.info["transparency"] = 0
    return image if mode in ("LA", "P") else image.convert(mode)


KINDS = [(suffix, mode) for suffix in (".png", ".webp", ".tiff") for mode in ("RGBA", "LA")]


@pytest.mark.parametrize(
    ("suffix", "mode"), [*KINDS, (".png", "P"), (".gif", "P"), (".gif", "RGBA")]
)
def test_transparent_pixels_are_white(mode, suffix, tmp_path, capsys):
    folder = tmp_path / "icons"
    folder.mkdir()
    more = {"lossless": True} if suffix == ".webp" else {}
    clear(mode).save(folder / f"a{suffix}", **more)
    assert torch.equal(load(str(folder)).images[0, 0], torch.from_numpy(255 - INK))
    assert said(capsys) == "icons: 1 image, 1 laid on white"


def test_half_transparent_is_half_white_and_a_colour_key_is_transparent(tmp_path, capsys):
    Image.new("RGBA", (4, 4), (100, 0, 200, 51)).save(tmp_path / "a.png")
    key = Image.new("RGB", (4, 4), (9, 9, 9))
    key.putpixel((1, 1), (7, 7, 7))
    key.save(tmp_path / "b.png", transparency=(9, 9, 9))
    Image.new("RGBA", (4, 4), (1, 2, 3, 255)).save(tmp_path / "c.png")  # opaque
    half, keyed, opaque = load(str(tmp_path)).images
    assert half[:, 0, 0].tolist() == [224, 204, 244]  # 255 - (255 - c) / 5
    assert keyed[:, 1, 1].tolist() == [7, 7, 7] and keyed[:, 0, 0].tolist() == [255] * 3
    assert opaque[:, 0, 0].tolist() == [1, 2, 3]
    assert said(capsys).endswith(": 3 images, 2 laid on white")


def test_white_on_transparent_is_refused_as_nothing_would_be_left(tmp_path):
    clear("RGBA", ink=255).save(tmp_path / "a.png")
    assert "a.png is white on a transparent ground" in sentence(str(tmp_path))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_images_are_turned_as_their_exif_tag_says(suffix, tmp_path, capsys):
    folder = tmp_path / f"phone{suffix}"
    folder.mkdir()
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        shape = (5, 3) if turn >= 5 else (3, 5)  # upright all have one size
        image = Image.fromarray(pixels(*shape, 3, seed=turn))
        image.save(folder / f"{turn}{suffix}", exif=exif)
    (folder / f"9{suffix}").write_bytes((folder / f"1{suffix}").read_bytes())
    loaded = load(str(folder)).images
    for i, x in enumerate(loaded[:8], 1):
        seen = ImageOps.exif_transpose(Image.open(folder / f"{i}{suffix}"))
        assert np.array_equal(x.permute(1, 2, 0).numpy(), np.asarray(seen))
    assert said(capsys) == f"phone{suffix}: 9 images, 7 turned by their EXIF tag"


def test_an_unknown_orientation_turns_nothing(tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 42
    Image.fromarray(pixels(3, 5, 3)).save(tmp_path / "a.png", exif=exif)
    assert load(str(tmp_path)).shape == (3, 3, 5) and not said(capsys)


def test_hidden_folders_and_what_is_no_image_are_left_out_and_said(tmp_path, capsys):
    folder = tmp_path / "photos"
    write_images(folder, pixels(12, 4, 4, 3))
    for name in (".ipynb_checkpoints", ".thumbnails", "__MACOSX", "@eaDir", "cats/.git/deep"):
        write_images(folder / name, pixels(3, 4, 4, 3))
    (folder / "._000.png").write_text("a fork")
    (folder / "notes.txt").write_text("no image")
    (folder / "cats" / "none").mkdir()
    os.mkfifo(folder / "pipe.png")
    assert sum(len(load(str(folder), split)) for split in SPLITS) == 12
    assert said(capsys) == (
        "photos: 12 images, 5 hidden folders, 1 hidden file, 2 files without an image and "
        "1 empty folder left out"
    )


def test_a_set_may_itself_lie_in_a_hidden_folder(tmp_path):
    write_images(tmp_path / ".cache" / "x", pixels(2, 4, 4))
    assert len(load(str(tmp_path / ".cache" / "x"))) == 2


def test_links_are_followed_and_rings_end(tmp_path, capsys):
    store, view = tmp_path / "store", tmp_path / "view"
    write_images(store / "cats", pixels(7, 4, 4, seed=1))
    write_images(store / "dogs", pixels(5, 4, 4, seed=2))
    view.mkdir()
    for name in ("cats", "dogs"):
        (view / name).symlink_to(store / name, target_is_directory=True)
    (store / "cats" / "up").symlink_to(store, target_is_directory=True)  # a ring
    (store / "cats" / "self").symlink_to(store / "cats" / "self")
    (view / "nowhere.png").symlink_to(tmp_path / "gone.png")
    (view / "again.png").symlink_to(store / "cats" / "000.png")
    (view / "parent").symlink_to("..")
    assert sum(len(load(str(view), split)) for split in SPLITS) == 12
    line = said(capsys)
    assert line.startswith("view: 12 images, ") and "2 links that lead nowhere" in line
    assert "links to what was read already left out" in line


def test_a_linked_file_counts_and_a_folder_of_links_is_a_set(tmp_path):
    write_images(tmp_path / "a", pixels(3, 4, 4))
    (tmp_path / "b").mkdir()
    for i in range(3):
        (tmp_path / "b" / f"{i}.png").symlink_to(f"../a/00{i}.png")
    assert torch.equal(load(str(tmp_path / "a")).images, load(str(tmp_path / "b")).images)
    (tmp_path / "c").symlink_to("b")
    assert len(load(str(tmp_path / "c"))) == 3 and load(str(tmp_path / "c")).name == "b"


def test_suffixes_and_split_folders_in_capitals(tmp_path, capsys):
    folder = tmp_path / "set"
    write_images(folder / "Train", pixels(4, 4, 4), ".PNG")
    write_images(folder / "TEST", pixels(2, 4, 4), ".BMP")
    write_images(folder / "other", pixels(3, 9, 9))
    assert (len(load(str(folder))), len(load(str(folder), "test"))) == (4, 2)
    assert said(capsys) == "set: 6 images, 3 images beside train and test left out"
    np.savez(tmp_path / "x.npz", images=pixels(3, 4, 4))
    (tmp_path / "x.npz").rename(tmp_path / "X.NPZ")
    assert len(load(str(tmp_path / "X.NPZ"))) == 3


def test_frames_modes_and_grey_beside_colour_are_said(tmp_path, capsys):
    frames = [Image.new("L", (4, 4), v) for v in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "b.jpg", quality=100)
    first, red = load(str(tmp_path)).images
    assert (first == 10).all() and red[0].min() > 250 and red[1:].max() < 5
    assert said(capsys).split(": ")[1] == (
        "2 images, 1 of several frames, the first taken, 1 turned from CMYK to RGB"
    )


@pytest.mark.parametrize("deep", ["I;16", "I", "F", "RGB16"])
def test_deeper_images_are_refused(deep, tmp_path):
    file = tmp_path / ("a.png" if deep == "RGB16" else "a.tiff")
    if deep == "RGB16":
        import struct
        import zlib

        def chunk(kind, body):
            code = zlib.crc32(kind + body)
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", code)

        head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
        body = zlib.compress(b"".join(b"\0" + bytes(24) for _ in range(4)))
        blob = chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
        file.write_bytes(b"\x89PNG\r\n\x1a\n" + blob)
    else:
        Image.new(deep, (4, 4)).save(file)
    assert f"{file} is not an 8-bit image" in sentence(str(tmp_path))


def test_a_damaged_test_image_is_found_when_the_training_images_are_loaded(tmp_path):
    for part in ("train", "test"):
        write_images(tmp_path / part, pixels(2, 30, 30, 3))
    odd = tmp_path / "test" / "001.png"
    odd.write_bytes(odd.read_bytes()[:-200])
    assert f"{odd} cannot be read as an image" in sentence(str(tmp_path))
    odd.write_bytes(b"")
    assert f"{odd} cannot be read as an image" in sentence(str(tmp_path))


@pytest.mark.parametrize("period", [2, 5, 10])
def test_every_class_is_in_the_test_set(period, tmp_path):
    file, y = tmp_path / "d.npz", np.arange(300) % period
    np.savez(
        file,
        images=pixels(300, 2, 2),
        labels=y,
    )
    train, test = (load(str(file), split) for split in SPLITS)
    assert set(test.labels.tolist()) == set(train.labels.tolist()) == set(range(period))
    assert len(test) == 30 and len(train) == 270


def test_small_classes_subfolders_and_unknown_classes(tmp_path, capsys):
    y = np.array([0] * 40 + [1] * 2 + [2] * 5 + [3])
    np.savez(tmp_path / "d.npz", images=pixels(48, 2, 2), labels=y)
    assert load(str(tmp_path / "d.npz"), "test").labels.tolist() == [0] * 4 + [1, 2]
    for name in "abcde":
        write_images(tmp_path / "f" / name, np.full((2, 2, 2), ord(name), np.uint8))
    shown = load(str(tmp_path / "f"), "test").images[:, 0, 0, 0]
    assert bytes(shown.tolist()) == b"abcde"
    assert said(capsys) == "f: 10 images, 5 kept for testing, one of each subfolder at least"
    grey = np.broadcast_to(np.arange(300, dtype=np.uint8)[:, None, None] % 10, (300, 2, 2))
    np.savez(tmp_path / "u.npz", images=grey)  # classes by turns that no label tells
    assert len(load(str(tmp_path / "u.npz"), "test").images.unique()) > 5


def test_a_split_stays_as_it_is_when_images_are_added(tmp_path):
    for n in (100, 157):
        numbers = np.arange(n, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
        np.savez(tmp_path / f"{n}.npz", images=numbers, labels=np.arange(n) % 3)
    few, many = (
        set(load(str(tmp_path / f"{n}.npz"), "test").images[:, 0, 0, 0].tolist())
        for n in (100, 157)
    )
    assert {i for i in many if i < 90} == {i for i in few if i < 90}


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (np.arange(20) - 1, "they go from -1 to 18"),
        (np.arange(20) * 10_000, "they go from 0 to 190000"),
        (np.arange(20, dtype=np.uint64) + 2**63, "they go from 9223372036854775808"),
        (np.eye(20, dtype=np.int64), "of shape (20, 20)"),
        (np.array(["cat"] * 20), "<U3 of shape (20,)"),
        (np.zeros(20, bool), "bool of shape"),
        (np.zeros(20), "float64 of shape"),
        (np.zeros(19, int), "of shape (19,)"),
    ],
)
@pytest.mark.parametrize("end", ["", "_test"])
def test_labels_that_are_none_are_refused_for_both_splits(labels, complaint, end, tmp_path):
    file = tmp_path / "d.npz"
    x = pixels(20, 4, 4)
    np.savez(file, images=x, images_test=x, **{f"labels{end}": labels})
    for split in SPLITS:
        message = sentence(str(file), split)
        assert f"{file}, labels{end}: " in message and complaint in message


def test_labels_beyond_a_byte_are_kept_and_what_is_not_read_is_said(tmp_path, capsys):
    file, x = tmp_path / "d.npz", pixels(20, 4, 4)
    np.savez(
        file,
        images=x,
        images_test=x,
        labels=np.arange(20) + 300,
        labels_test=np.arange(20) + 310,
        z=x,
    )
    assert load(str(file)).labels.tolist() == list(range(300, 320))
    assert said(capsys) == (
        "d: 20 images, array z left out, 10 test images of classes that the training images lack"
    )
    np.savez(tmp_path / "e.npz", images=x, labels_test=np.arange(20))
    load(str(tmp_path / "e.npz"))
    assert said(capsys) == "e: 20 images, array labels_test left out"
    load(str(tmp_path / "e.npz"), "test")
    assert not said(capsys)  # once is enough
