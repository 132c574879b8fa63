"""Downloads from a server on this machine: cut off, wrong, refused, and whole in the end."""

import hashlib
import os
import pty
import sys
import termios
from urllib.error import URLError

import nbformat
import numpy as np
import pytest
from conftest import pixels
from nbclient import NotebookClient

from jlebm_core.data import download
from jlebm_core.data.download import DownloadError, fetch
from jlebm_core.data.files import write_decoded
from jlebm_core.data.progress import bar

BODY = pixels(300_000).tobytes()
MD5 = hashlib.md5(BODY).hexdigest()


@pytest.fixture
def file(server, tmp_path):
    """Where the download goes; the server has BODY under the name "set"."""
    server.files["set"] = BODY
    return tmp_path / "new" / "folder" / "set.gz"


def left(file):
    return sorted(p.name for p in file.parent.iterdir())


def test_a_file_comes_whole_and_alone(server, file):
    assert fetch([server.url("set")], file, MD5) == file
    assert file.read_bytes() == BODY and left(file) == ["set.gz"]
    assert server.asked == [("set", None)]


def test_a_cut_connection_is_gone_on_with(server, file):
    server.plan = [("cut", 100_000), ("cut", 50_000)]
    fetch([server.url("set")], file, MD5)
    assert file.read_bytes() == BODY and left(file) == ["set.gz"]
    starts = [int(r.removeprefix("bytes=").removesuffix("-")) for _, r in server.asked[1:]]
    assert server.asked[0] == ("set", None) and len(starts) == 2
    # what of the last bytes had arrived when the line was cut is not for us to say
    assert 0 < starts[0] <= 100_000 and starts[0] < starts[1] <= starts[0] + 50_000


def test_a_later_call_goes_on_with_the_part_of_an_earlier_one(server, file, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.plan = [("cut", 100_000)]
    with pytest.raises(DownloadError, match="cut off at"):
        fetch([server.url("set")], file, MD5)
    assert left(file) == ["set.gz.part"], "nothing that looks complete"
    have = (file.parent / "set.gz.part").stat().st_size
    fetch([server.url("set")], file, MD5)
    assert server.asked[1] == ("set", f"bytes={have}-") and file.read_bytes() == BODY


def test_a_server_without_ranges_sends_all_of_it_again(server, file):
    server.ranges, server.plan = False, [("cut", 100_000)]
    fetch([server.url("set")], file, MD5)
    assert file.read_bytes() == BODY and len(server.asked) == 2


@pytest.mark.parametrize("part", [BODY, BODY + b"more", b"wrong" * 1000])
def test_a_part_that_is_whole_too_long_or_of_another_file(server, file, part):
    file.parent.mkdir(parents=True)
    (file.parent / "set.gz.part").write_bytes(part)
    fetch([server.url("set")], file, MD5)
    assert file.read_bytes() == BODY and left(file) == ["set.gz"]
    assert len(server.asked) == (1 if part == BODY else 2)


def test_a_wrong_checksum_leaves_nothing(server, file):
    with pytest.raises(DownloadError, match="another checksum than 00"):
        fetch([server.url("set")], file, "00")
    assert left(file) == []
    assert server.asked == [("set", None)] * download.ATTEMPTS, "wrong bytes are no start"


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server, file):
    server.plan = [503, 500]
    fetch([server.url("set")], file, MD5)
    assert len(server.asked) == 3
    file.unlink()
    server.asked.clear()
    fetch([server.url("gone"), server.url("set")], file, MD5)
    assert [name for name, _ in server.asked] == ["gone", "set"]
    with pytest.raises(DownloadError, match="404"):
        fetch([server.url("gone")], file.with_name("other"), MD5)


def test_without_a_network_each_address_is_tried_once_and_nothing_waits(tmp_path, monkeypatch):
    asked = []

    def offline(request, timeout):
        asked.append(request.full_url)
        raise URLError("Name or service not known")

    monkeypatch.setattr(download, "urlopen", offline)
    monkeypatch.setattr(download.time, "sleep", lambda s: pytest.fail("waited"))
    with pytest.raises(DownloadError, match="Name or service not known"):
        fetch(["http://a/set", "http://b/set"], tmp_path / "set", MD5)
    assert asked == ["http://a/set", "http://b/set"] and not list(tmp_path.iterdir())


def test_a_network_that_fails_in_the_middle_is_waited_for(server, file, monkeypatch):
    answers = [whole := download.urlopen, URLError("down"), URLError("down"), whole]

    def unsteady(*args, **kwargs):
        answer = answers.pop(0)
        if isinstance(answer, URLError):
            raise answer
        return answer(*args, **kwargs)

    monkeypatch.setattr(download, "urlopen", unsteady)
    server.plan = [("cut", 100_000)]
    fetch([server.url("set")], file, MD5)
    assert file.read_bytes() == BODY and not answers


def test_a_refusing_machine_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(DownloadError, match="refused"):
        fetch(["http://127.0.0.1:9/set"], tmp_path / "set", MD5)
    assert not list(tmp_path.iterdir())


def test_where_no_terminal_sees_a_bar_one_line_says_what_is_done(server, file, capsys):
    fetch([server.url("set")], file, MD5)
    assert capsys.readouterr() == ("", "downloading set.gz ...\n")


def test_a_part_that_is_gone_on_with_is_one_more_line_and_no_bar(server, file, capsys):
    server.plan = [("cut", 100_000)]
    fetch([server.url("set")], file, MD5)
    assert capsys.readouterr().err.splitlines() == ["downloading set.gz ..."] * 2


def test_decoding_is_one_line_too(tmp_path, capsys):
    images = pixels(3, 4, 4, 3)
    write_decoded(tmp_path / "set.npy", 3, iter(images), "a set")
    assert capsys.readouterr() == ("", "decoding a set ...\n")
    assert np.array_equal(np.load(tmp_path / "set.npy"), images.transpose(0, 3, 1, 2))


def test_on_a_terminal_there_is_a_bar(monkeypatch, capsys):
    """A pseudo-terminal, as a shell gives; without a size it has no room for a bar."""
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    with open(terminal, "w") as screen:
        monkeypatch.setattr(sys, "stderr", screen)
        assert list(bar("work", iterable=range(3))) == [0, 1, 2]
    seen = b""
    while b"work: 100%" not in seen:  # a terminal is read in pieces, as many as it likes
        seen += os.read(main, 1 << 16)
    assert b"work:   0%" in seen and capsys.readouterr() == ("", "")
    os.close(main)


@pytest.mark.slow
def test_a_kernel_says_it_among_its_outputs(tmp_path):
    """Where a page turns standard error into a warning."""
    source = "from jlebm_core.data.progress import bar; _ = list(bar('work', iterable=range(3)))"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(book, kernel_name="python3").execute()
    (output,) = book.cells[0].outputs
    assert (output.name, output.text) == ("stdout", "work ...\n")
