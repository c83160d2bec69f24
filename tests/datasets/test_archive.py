"""Raw files: only what is safe is read out of a zip, only what is whole is kept of a download."""

import hashlib
import http.server
import socket
import stat
import struct
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fewshot.datasets.archive import Published, download, obtain, read_members
from fewshot.errors import InputError

LIMIT = 1 << 30
CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def special(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return info


def patch(path: Path, signature: bytes, offset: int, value: bytes) -> None:
    """Overwrite a field of the last header of that kind."""
    data = bytearray(path.read_bytes())
    at = data.rindex(signature) + offset
    data[at : at + len(value)] = value
    path.write_bytes(data)


def read(path: Path, limit: int = LIMIT) -> dict[str, bytes]:
    return dict(read_members(path, ".png", limit=limit))


def test_reads_a_zip_and_the_folder_unpacked_from_it(tmp_path: Path) -> None:
    pictures = {"top/b/1.png": b"one", "top/a/ü 2.png": b"two", "top/empty.png": b""}
    hidden = {"top/read.txt": b"x", "top/a/._1.png": b"x", "__MACOSX/top/1.png": b"x"}
    zipped = make_zip(tmp_path / "top.zip", pictures | hidden)
    assert read(zipped) == pictures
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(tmp_path)
    assert read(tmp_path / "top") == pictures


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil.png", "points out of the archive"),
        ("a/../../evil.txt", "points out of the archive"),
        ("a\\..\\evil.png", "points out of the archive"),
        ("/etc/evil.png", "has an absolute name"),
        ("C:\\evil.png", "has an absolute name"),
    ],
)
def test_a_member_that_points_elsewhere_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    path = make_zip(tmp_path / "a.zip", {"fine.png": b"x", name: b"x"})
    with pytest.raises(InputError, match=r"a\.zip is refused: member '.*evil.*' " + reason):
        read(path)


@pytest.mark.parametrize(("kind", "reason"), [(stat.S_IFLNK, "is a link"), (stat.S_IFIFO, "is not an ordinary file")])
def test_a_link_or_a_device_is_refused(tmp_path: Path, kind: int, reason: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(special("dir/evil.png", kind), "/etc/passwd")
    with pytest.raises(InputError, match=f"member 'dir/evil.png' {reason}"):
        read(tmp_path / "a.zip")


def test_expansion_is_bounded(tmp_path: Path) -> None:
    bomb = make_zip(tmp_path / "bomb.zip", {"fine.png": b"x", "bomb.png": bytes(20 << 20)})
    with pytest.raises(InputError, match=r"member 'bomb.png' expands from \d+ to 20971520 bytes"):
        read(bomb)
    many = make_zip(tmp_path / "many.zip", {f"{n}.png": bytes(1 << 20) for n in range(20)})
    with pytest.raises(InputError, match=r"member '\d+.png' brings the archive of \d+ bytes to \d+ bytes"):
        read(many)
    large = make_zip(tmp_path / "large.zip", {"1.png": CONTENT, "2.png": CONTENT})
    with pytest.raises(InputError, match=r"member '2\.png' brings the archive"):
        read(large, limit=2 * len(CONTENT) - 1)
    assert len(read(large, limit=2 * len(CONTENT))) == 2


def test_a_header_that_lies_about_the_size_unpacks_no_more_than_it_says(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"1.png": bytes(20 << 20)})
    patch(path, b"PK\x01\x02", 24, struct.pack("<I", 1000))
    with pytest.raises(InputError, match=r"1\.png cannot be read \(Bad CRC-32"):
        read(path)


@pytest.mark.parametrize("keep", [0, 1, 30, 0.5, 0.99])
def test_a_truncated_zip_is_named(tmp_path: Path, keep: float) -> None:
    whole = make_zip(tmp_path / "a.zip", {"1.png": CONTENT, "2.png": CONTENT}).read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[: int(keep * len(whole) if 0 < keep < 1 else keep)])
    with pytest.raises(InputError, match=r"a\.zip is not a whole zip archive"):
        read(tmp_path / "a.zip")


def test_a_damaged_member_is_named_or_noted(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:  # stored, so that the first byte of each content is known
        for name in ("1.png", "2.png", "3.png"):
            archive.writestr(name, CONTENT)
    data = bytearray(path.read_bytes())
    data[data.index(b"1.png") + 105] ^= 1
    path.write_bytes(data)
    patch(path, b"PK\x03\x04", 6, b"\x01")  # the last one is encrypted
    patch(path, b"PK\x01\x02", 8, b"\x01")
    with pytest.raises(InputError, match=r"a\.zip: 1\.png cannot be read \(Bad CRC-32"):
        read(path)
    damaged: list[str] = []
    assert [name for name, _ in read_members(path, ".png", limit=LIMIT, damaged=damaged)] == ["2.png"]
    assert len(damaged) == 2
    assert "3.png" in damaged[1] and "encrypted" in damaged[1]


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing.zip":
            self.send_error(404)
            return
        body = CONTENT + (b"x" if self.path == "/long.zip" else b"")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:1000] if self.path == "/short.zip" else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def closed() -> str:
    """An address where nobody answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_download_installs_the_whole_file(tmp_path: Path, server: str) -> None:
    for url in (f"{server}/a.zip", make_file(tmp_path / "a.zip").as_uri()):
        target = tmp_path / "new folder" / "b.zip"
        download(url, target, size=len(CONTENT), sha256=SHA256)
        assert target.read_bytes() == CONTENT
        assert [path.name for path in target.parent.iterdir()] == ["b.zip"]
        assert stat.S_IMODE(target.stat().st_mode) & 0o044 == 0o044


def make_file(path: Path) -> Path:
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize(
    ("file", "sha256", "message"),
    [
        ("a.zip", "0" * 64, f"found sha256 {SHA256}, expected {'0' * 64}; nothing was kept"),
        ("short.zip", SHA256, rf"1000 of {len(CONTENT)} bytes"),
        ("long.zip", SHA256, f"got more than {len(CONTENT)} bytes"),
        ("missing.zip", SHA256, "HTTP Error 404"),
    ],
)
def test_a_bad_download_leaves_nothing_behind(
    tmp_path: Path, server: str, file: str, sha256: str, message: str
) -> None:
    target = tmp_path / "b.zip"
    target.write_bytes(b"what was there before")
    with pytest.raises(InputError, match=message):
        download(f"{server}/{file}", target, size=len(CONTENT), sha256=sha256)
    assert [path.name for path in tmp_path.iterdir()] == ["b.zip"]
    assert target.read_bytes() == b"what was there before"


def test_download_without_an_answer(tmp_path: Path, closed: str) -> None:
    with pytest.raises(InputError, match=r"^http://127.0.0.1:\d+/a.zip: .*refused"):
        download(f"{closed}/a.zip", tmp_path / "folder" / "a.zip", size=1, sha256="")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.zip"
        with pytest.raises(InputError, match="timed out"):
            download(url, tmp_path / "folder" / "a.zip", size=1, sha256="", timeout=0.4)
    assert list(tmp_path.iterdir()) == []


def test_a_name_service_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: over.wait(60))
    with pytest.raises(InputError, match=r"no answer within 0\.1 s"):
        download("http://example.org/a.zip", tmp_path / "a.zip", size=1, sha256="", timeout=0.1)
    over.set()


def test_download_to_where_nothing_can_be_written(tmp_path: Path, server: str) -> None:
    make_file(tmp_path / "file")
    with pytest.raises(InputError, match=r"cannot write to .*file/folder: Not a directory"):
        download(f"{server}/a.zip", tmp_path / "file" / "folder" / "a.zip", size=1, sha256="")


def test_obtain_finds_before_it_fetches(tmp_path: Path, server: str, closed: str) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    zipped, unpacked, absent = (
        Published(url=f"{base}/{name}.zip", size=len(CONTENT), sha256=SHA256)
        for base, name in ((closed, "zipped"), (closed, "unpacked"), (server, "absent"))
    )
    (tmp_path / "second" / "unpacked").mkdir(parents=True)
    make_file(tmp_path / "second" / "zipped.zip")
    with pytest.raises(InputError, match=rf"^raw files are missing; put {absent.url} \({len(CONTENT)} bytes"):
        obtain([zipped, unpacked, absent], folders, fetch=False)
    assert obtain([zipped, unpacked, absent], folders, fetch=True) == [
        tmp_path / "second" / "zipped.zip",
        tmp_path / "second" / "unpacked",
        tmp_path / "first" / "absent.zip",
    ]


def test_obtain_without_network_says_which_files_go_where(tmp_path: Path, closed: str) -> None:
    files = [Published(url=f"{closed}/{name}.zip", size=7, sha256="ab" * 32) for name in ("one", "two")]
    message = rf"refused\); put {closed}/one.zip \(7 bytes, sha256 (ab){{32}}\) and .*two.zip .* into {tmp_path}"
    with pytest.raises(InputError, match=message) as caught:
        obtain(files, [tmp_path], fetch=True)
    assert "\n" not in str(caught.value)
