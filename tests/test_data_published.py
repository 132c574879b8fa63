"""The published sets, on small files of their own formats; the real ones where they are at hand."""

import gzip
import hashlib
import pickle
import sys
import tarfile
import warnings
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pixels, sentence
from PIL import Image
from torchvision import datasets, transforms

from jlebm_core import data
from jlebm_core.data import celeba, cifar, load
from jlebm_core.errors import UsageError

MNIST_MD5 = {
    "train": "6bbc9ace898e44ae57da46a324031adb",
    "test": "2646ac647ad5339dbf082846283269ea",
}


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">i4").tobytes()
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wb") as file:
        file.write(header + array.tobytes())


def write_mnist(raw: Path, suffix: str = "") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A tiny MNIST in torchvision's layout; returns split -> (images, labels)."""
    made = {"train": (pixels(7, 28, 28), pixels(7) % 10), "test": (pixels(3, 28, 28), pixels(3))}
    for prefix, (images, labels) in zip(("train", "t10k"), made.values(), strict=True):
        write_idx(raw / f"{prefix}-images-idx3-ubyte{suffix}", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
    return made


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")]
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("where", [0, 1])
def test_mnist_in_torchvisions_layout(roots, name, folder, suffix, where):
    made = write_mnist(roots[where] / folder / "raw", suffix)
    for split, (images, labels) in made.items():
        loaded = load(name, split, download=False)
        assert loaded.shape == (1, 28, 28) and loaded.images.dtype == torch.uint8
        assert np.array_equal(loaded.images[:, 0].numpy(), images)
        assert loaded.labels.tolist() == labels.tolist() and loaded.labels.dtype == torch.int64
        assert torch.equal(load(name, split, limit=2).images, loaded.images[:2])
        if not suffix:
            peer = getattr(datasets, folder)(roots[where], train=split == "train")
            assert torch.equal(peer.data, loaded.images[:, 0])
            assert torch.equal(peer.targets, loaded.labels)


def test_mnist_nowhere_says_what_was_tried_and_what_to_do(roots):
    message = sentence("mnist")
    assert all(str(root / "MNIST" / "raw") in message for root in roots)
    assert "no network here" in message and "set JLEBM_DATA" in message
    assert "--data glyphs" in message
    assert "not allowed" in sentence("mnist", download=False)
    assert not [p for p in roots[1].rglob("*") if p.is_file()], "nothing half-written"


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")]
)
def test_mnist_download_lands_in_the_cache_whole(roots, server, monkeypatch, name, folder):
    made = write_mnist(roots[0] / "source", ".gz")
    server.files = {p.name: p.read_bytes() for p in (roots[0] / "source").iterdir()}
    resources = [(file, md5(content)) for file, content in server.files.items()]
    source = getattr(datasets, folder)
    monkeypatch.setattr(source, "mirrors", [server.url("gone/"), server.url("")])
    monkeypatch.setattr(source, "resources", resources)
    server.plan = [404, ("cut", 100)]
    loaded = load(name, "test")
    assert np.array_equal(loaded.images[:, 0].numpy(), made["test"][0])
    assert loaded.labels.tolist() == made["test"][1].tolist()
    kept = sorted(p.name for p in (roots[1] / folder / "raw").iterdir())
    assert kept == ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
    asked = len(server.asked)
    assert len(load(name, "test")) == 3 and len(server.asked) == asked


def test_broken_mnist_files_are_named(roots):
    raw = roots[0] / "MNIST" / "raw"
    write_mnist(raw)
    images = raw / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    for broken in (whole[:-1], whole + b"0", b"", b"\0\0\x09" + whole[3:]):
        images.write_bytes(broken)
        assert f"{images} is not a complete IDX file" in sentence("mnist")
    write_idx(images, pixels(6, 28, 28))
    assert "6 images but 7 labels" in sentence("mnist")
    images.unlink()
    images.with_suffix(".gz").write_bytes(gzip.compress(whole)[:-9])
    assert f"{images}.gz cannot be read" in sentence("mnist")


@pytest.mark.parametrize(("split", "n", "labels"), [("train", 60_000, [5, 0, 4, 1, 9]),
                                                    ("test", 10_000, [7, 2, 1, 0, 4])])  # fmt: skip
def test_the_real_mnist_is_byte_exact(split, n, labels):
    try:
        loaded = load("mnist", split, download=False)
    except UsageError:
        pytest.skip("MNIST is not on this machine")
    assert loaded.images.shape == (n, 1, 28, 28) and loaded.labels[:5].tolist() == labels
    header = bytes((0, 0, 8, 3)) + np.array((n, 28, 28), ">i4").tobytes()
    assert hashlib.md5(header + loaded.images.numpy().tobytes()).hexdigest() == MNIST_MD5[split]


def cifar_batch(n: int, seed: int) -> tuple[bytes, np.ndarray, list[int]]:
    """A batch as the official ones are: a pickle of rows of 3,072 bytes, written by old numpy."""
    rows, labels = pixels(n, 3072, seed=seed), (pixels(n, seed=seed) % 10).tolist()
    blob = pickle.dumps({"data": rows, "labels": labels}, protocol=2)
    new, old = b"\x89\x88\x87", b"K\x00K\x01\x87"  # (False, True) and (0, 1), of the dtype
    assert blob.count(new) == 1
    return blob.replace(new, old), rows.reshape(n, 3, 32, 32), labels


@pytest.fixture
def tiny_cifar(monkeypatch):
    """A CIFAR-10 of 5 + 1 batches with checksums of its own: (files, split -> (images, labels))."""
    batches = {f"data_batch_{i}": cifar_batch(4, i) for i in range(1, 6)}
    batches["test_batch"] = cifar_batch(3, 6)
    files = {name: blob for name, (blob, _, _) in batches.items()}
    files["batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")}, protocol=2)
    known = [[name, md5(blob)] for name, blob in files.items()]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", known[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", known[5:6])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": known[6][1]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    _, images, labels = zip(*batches.values(), strict=True)
    train = np.concatenate(images[:5]), sum(labels[:5], [])
    return files, {"train": train, "test": (images[5], labels[5])}


def test_cifar10_in_torchvisions_layout(roots, tiny_cifar):
    files, made = tiny_cifar
    folder = roots[0] / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, blob in files.items():
        (folder / name).write_bytes(blob)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a notebook would print them
        for split, (images, labels) in made.items():
            loaded = load("cifar10", split, download=False)
            assert (loaded.name, loaded.shape) == ("cifar10", (3, 32, 32))
            assert np.array_equal(loaded.images.numpy(), images) and loaded.images.is_contiguous()
            assert loaded.labels.tolist() == labels and loaded.labels.dtype == torch.int64
            some = load("cifar10", split, limit=2)
            assert torch.equal(some.images, loaded.images[:2])
            assert some.labels.tolist() == labels[:2]


def test_a_cifar10_batch_of_another_checksum_is_never_unpickled(roots, tiny_cifar):
    files, _ = tiny_cifar
    folder = roots[0] / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, blob in files.items():
        (folder / name).write_bytes(blob)
    trap = b"cos\nmkdir\n(V" + str(roots[0] / "opened").encode() + b"\ntR."
    (folder / "data_batch_2").write_bytes(trap)
    assert f"{folder} is not a complete CIFAR-10" in sentence("cifar10", "test")
    assert not (roots[0] / "opened").exists()


def test_cifar10_download_is_unpacked_whole(roots, server, tiny_cifar, monkeypatch):
    files, made = tiny_cifar
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, blob in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(blob)
            tar.addfile(member, BytesIO(blob))
    server.files["cifar.tar.gz"] = packed.getvalue()
    monkeypatch.setattr(datasets.CIFAR10, "url", server.url("cifar.tar.gz"))
    assert "another checksum" in sentence("cifar10")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(packed.getvalue()))
    server.plan = [("cut", 2000)]
    assert np.array_equal(load("cifar10").images.numpy(), made["train"][0])
    assert [p.name for p in roots[1].iterdir()] == ["cifar-10-batches-py"]


def write_jpegs(file: Path, n: int, monkeypatch, seed: int = 0) -> list[np.ndarray]:
    """A CIFAR-10 (JPEG) of ``n`` images, the last 3 for test; returns the decoded images."""
    blobs = []
    for i in range(n):
        stream = BytesIO()
        Image.fromarray(pixels(32, 32, 3, seed=seed + i)).save(stream, "JPEG", quality=75)
        blobs.append(stream.getvalue())
    arrays = {
        "jpeg": np.frombuffer(b"".join(blobs), np.uint8),
        "offsets": np.cumsum([0, *map(len, blobs)]),
        "labels": (np.arange(n) % 10).astype(np.uint8),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **arrays)
    monkeypatch.setattr(cifar, "JPEG_TRAIN", n - 3)
    return [np.asarray(Image.open(BytesIO(b))).transpose(2, 0, 1) for b in blobs]


def test_cifar10_jpeg_is_decoded_once_and_named_for_what_it_is(roots, monkeypatch):
    images = write_jpegs(roots[0] / "cifar10_jpeg.npz", 12, monkeypatch)
    opened = []
    whole = Image.open
    monkeypatch.setattr(Image, "open", lambda f: (opened.append(1), whole(f))[1])
    some = load("cifar10-jpeg", limit=4)
    assert len(opened) == 4 and not roots[1].exists(), "no more than asked for, and none kept"
    train, test = load("cifar10-jpeg"), load("cifar10-jpeg", "test")
    assert np.array_equal(train.images.numpy(), images[:9]) and torch.equal(
        some.images, train.images[:4]
    )
    assert np.array_equal(test.images.numpy(), images[9:])
    assert train.labels.tolist() == list(range(9)) and test.labels.tolist() == [9, 0, 1]
    assert len(opened) == 4 + 12
    assert torch.equal(load("cifar10-jpeg", "test", limit=2).images, test.images[:2])
    assert torch.equal(load("cifar10-jpeg").images, train.images) and len(opened) == 16
    assert data.title(train.name) == "CIFAR-10 (JPEG)" != data.title("cifar10")
    other = write_jpegs(roots[0] / "cifar10_jpeg.npz", 12, monkeypatch, seed=100)
    assert np.array_equal(load("cifar10-jpeg").images.numpy(), other[:9]), "another file"


def test_cifar10_jpeg_complaints(roots, monkeypatch):
    file = roots[0] / "cifar10_jpeg.npz"
    message = sentence("cifar10-jpeg")
    assert message.startswith("CIFAR-10 (JPEG) is not at hand") and "no download" in message
    write_jpegs(file, 12, monkeypatch)
    with np.load(file) as arrays:
        good = dict(arrays)
    np.savez(file, jpeg=good["jpeg"], offsets=good["offsets"])
    assert "the arrays jpeg, offsets and labels" in sentence("cifar10-jpeg")
    np.savez(file, **{**good, "offsets": good["offsets"][:-1]})
    assert "3 labels for 2 images" in sentence("cifar10-jpeg", "test")
    np.savez(file, **{**good, "jpeg": np.zeros_like(good["jpeg"])})
    assert "image 0 of cifar10_jpeg.npz cannot be decoded" in sentence("cifar10-jpeg")
    assert not list(roots[1].rglob("*.npy*")), "nothing half-written"
    file.write_bytes(b"no zip")
    assert f"{file} cannot be read as CIFAR-10 (JPEG)" in sentence("cifar10-jpeg")


def test_the_real_cifar10_jpeg():
    try:
        some = load("cifar10-jpeg", "test", limit=5, download=False)
    except UsageError:
        pytest.skip("CIFAR-10 (JPEG) is not on this machine")
    assert some.shape == (3, 32, 32) and some.labels.tolist() == [3, 8, 8, 0, 6]


def write_svhn(file: Path, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A part of SVHN with labels 1 to 10; returns images (N, 3, 32, 32) and digits."""
    savemat = pytest.importorskip("scipy.io").savemat
    images, labels = pixels(n, 3, 32, 32, seed=seed), np.arange(n) % 10 + 1
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"X": images.transpose(2, 3, 1, 0), "y": labels[:, None].astype(np.uint8)}
    savemat(file, content, do_compression=True)
    return images, labels % 10


@pytest.mark.parametrize("folder", ["SVHN", ""])
def test_svhn_as_torchvision_reads_it(roots, monkeypatch, folder):
    made = {
        part: write_svhn(roots[0] / folder / f"{part}_32x32.mat", n, seed=n)
        for part, n in (("train", 12), ("test", 11), ("extra", 14))
    }
    for name, split, part in (
        ("svhn", "train", "train"),
        ("svhn", "test", "test"),
        ("svhn-extra", "train", "extra"),
        ("svhn-extra", "test", "test"),
    ):
        loaded, (images, labels) = load(name, split, download=False), made[part]
        assert loaded.name == name and loaded.images.is_contiguous()
        assert np.array_equal(loaded.images.numpy(), images)
        assert loaded.labels.tolist() == labels.tolist() and 0 in loaded.labels
        some = load(name, split, limit=10)
        assert torch.equal(some.images, loaded.images[:10]) and some.labels[9] == 0
        file = roots[0] / folder / f"{part}_32x32.mat"
        address = [None, file.name, md5(file.read_bytes())]
        monkeypatch.setitem(datasets.SVHN.split_list, part, address)
        peer = datasets.SVHN(file.parent, split=part)
        assert np.array_equal(peer.data, images) and peer.labels.tolist() == labels.tolist()


def test_svhn_download_and_complaints(roots, server, monkeypatch):
    images, _ = write_svhn(roots[0] / "source.mat", 5)
    server.files["train.mat"] = content = (roots[0] / "source.mat").read_bytes()
    address = [server.url("train.mat"), "train_32x32.mat", md5(content)]
    monkeypatch.setitem(datasets.SVHN.split_list, "train", address)
    server.plan = [("cut", 1000)]
    assert np.array_equal(load("svhn").images.numpy(), images)
    file = roots[1] / "SVHN" / "train_32x32.mat"
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "scipy.io", None)
        assert "needs scipy: pip install scipy" in sentence("svhn")
    file.write_bytes(content[:-100])
    assert f"{file} cannot be read as SVHN" in sentence("svhn")
    from scipy.io import savemat

    savemat(file, {"X": pixels(32, 32, 3, 4), "y": np.arange(5)})
    assert "and 5 labels" in sentence("svhn")
    file.unlink()
    assert "downloading was not allowed" in sentence("svhn", download=False)


def write_celeba(folder: Path, packed: bool) -> dict[str, list[Image.Image]]:
    """A CelebA of 6 aligned images, JPEG, in the folder or the zip; returns split -> images."""
    codes, made = "020120", {"0": [], "1": [], "2": []}
    (folder / "img_align_celeba").mkdir(parents=True)
    for i, code in enumerate(codes, 1):
        file = folder / "img_align_celeba" / f"{i:06d}.jpg"
        smooth = Image.fromarray(pixels(11, 9, 3, seed=i)).resize((178, 218))
        smooth.save(file, quality=95)
        made[code].append(Image.open(BytesIO(file.read_bytes())))
    rows = [f"{i:06d}.jpg {code}\n" for i, code in enumerate(codes, 1)]
    (folder / "list_eval_partition.txt").write_text("".join(rows))
    if packed:
        with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
            for file in sorted((folder / "img_align_celeba").iterdir()):
                archive.write(file, f"img_align_celeba/{file.name}")
                file.unlink()
        (folder / "img_align_celeba").rmdir()
    return {"train": made["0"], "test": made["2"]}


@pytest.mark.parametrize("packed", [False, True])
def test_celeba_is_cut_and_resized_as_published_and_kept(roots, packed):
    folder = roots[0] / "celeba"
    made = write_celeba(folder, packed)
    published = transforms.Resize(64)  # after the crop, as in the authors' dataset.py
    for split, images in made.items():
        some = load("celeba64", split, limit=1)
        assert not list(roots[1].glob(f"*{split}*"))
        loaded = load("celeba64", split)
        expected = [np.asarray(published(i.crop((15, 40, 163, 188)))) for i in images]
        assert np.array_equal(loaded.images.numpy(), np.stack(expected).transpose(0, 3, 1, 2))
        assert loaded.shape == (3, 64, 64) and loaded.labels is None
        assert torch.equal(some.images, loaded.images[:1])
    left = folder / ("img_align_celeba.zip" if packed else "img_align_celeba/000001.jpg")
    left.write_bytes(b"")  # what is kept no longer needs the originals
    assert len(load("celeba64")) == 3 and len(load("celeba64", "test")) == 2
    assert len(list(roots[1].iterdir())) == 2


def test_celeba_complaints(roots):
    message = sentence("celeba64")
    assert "list_eval_partition.txt with img_align_celeba.zip" in message
    assert str(roots[0] / "celeba") in message and "browsers only" in message
    folder = roots[0] / "celeba"
    write_celeba(folder, False)
    third = folder / "img_align_celeba" / "000003.jpg"
    Image.new("RGB", (64, 64)).save(third)
    assert "000003.jpg of" in (message := sentence("celeba64")) and "has 64x64 pixels" in message
    third.unlink()
    assert "000003.jpg of" in (message := sentence("celeba64")) and "cannot be read" in message
    assert not list(roots[1].iterdir()), "nothing half-written"
    (folder / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    assert "names no test images" in sentence("celeba64", "test")
    (folder / "list_eval_partition.txt").write_text("000001.jpg\n")
    assert "lines such as" in sentence("celeba64")
    for file in (folder / "img_align_celeba").iterdir():
        file.unlink()
    (folder / "img_align_celeba").rmdir()
    (folder / "img_align_celeba.zip").write_bytes(b"no zip")
    (folder / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    assert "cannot be read as a zip" in sentence("celeba64")


def test_titles_name_every_published_set():
    assert {data.title(name) for name in data.NAMES} == {
        *("glyphs", "MNIST", "Fashion-MNIST", "CIFAR-10", "CIFAR-10 (JPEG)"),
        *("SVHN", "SVHN (extra)", f"CelebA-{celeba.SIDE}"),
    }
    assert data.title("my photos") == "my photos"
