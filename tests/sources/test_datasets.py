import errno
import gzip
import hashlib
import http.server
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision

from cnn_lab.errors import ConfigError, DataError
from cnn_lab.sources import download, idx
from cnn_lab.sources.download import refuse_downloads
from cnn_lab.sources.idx import read_idx, read_mnist
from conftest import only_run, read_result, train_command
from forked import CONTEXT

PAGE = b"<!DOCTYPE html>\n<html>" + b"<p>Sign in to the network</p>\n" * 20 + b"</html>"
NAMES = [name for name, _ in torchvision.datasets.FashionMNIST.resources]
IMAGES = NAMES[0]
MD5 = {
    "train": ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
    "test": ("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
}


def test_mnist_is_in_the_package_as_its_makers_published_it() -> None:
    for name, split in read_mnist().items():
        values = (split.images[:, 0], split.labels.astype(np.uint8))
        assert tuple(hash_bytes(pack_idx(array)) for array in values) == MD5[name]
    assert set(read_mnist()) == set(MD5)


def pack_idx(values: np.ndarray) -> bytes:
    """An IDX file of bytes."""
    return struct.pack(f">{1 + values.ndim}i", 0x800 + values.ndim, *values.shape) + values.tobytes()


def hash_bytes(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Request(http.server.BaseHTTPRequestHandler):
    """A request to a server whose `plan` has a list of answers for a path's first folder.

    The first request gets the first answer, and so on; the last answer goes on. Without a plan it is `serve`.
    """

    def do_GET(self) -> None:
        folder, name = self.path.split("/")[-2:]  # of a whole URL, where this server is the proxy
        with self.server.lock:
            turn = sum(path.split("/")[-2] == folder for path in self.server.asked)
            self.server.asked.append(self.path)
        answers = self.server.plan.get(folder, [serve])
        answers[min(turn, len(answers) - 1)](self, self.server.files[name])

    def begin(self, length: int | None, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def send(self, body: bytes, status: int = 200) -> None:
        self.begin(len(body), status)
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.lock = threading.Lock()
        self.asked: list[str] = []
        self.plan: dict[str, list[Callable[[Request, bytes], None]]] = {}
        self.files: dict[str, bytes] = {}
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Say nothing: the other end hangs up where it has had enough."""


def serve(request: Request, body: bytes) -> None:
    request.send(body)


def drop(request: Request, body: bytes) -> None:
    request.begin(len(body))
    request.wfile.write(body[:100])


def hang_up(request: Request, body: bytes) -> None:
    request.connection.shutdown(socket.SHUT_RDWR)


def stall(request: Request, body: bytes) -> None:
    request.begin(len(body))
    request.wfile.write(body[:100])
    request.server.closing.wait(10)


def stay_silent(request: Request, body: bytes) -> None:
    request.server.closing.wait(10)


def show_page(request: Request, body: bytes) -> None:
    request.send(PAGE)


def serve_other_content(request: Request, body: bytes) -> None:
    request.send(body[::-1])


def cut_short(request: Request, body: bytes) -> None:
    request.send(body[:-20])


def fail(status: int) -> Callable[[Request, bytes], None]:
    return lambda request, body: request.send(PAGE, status)


def redirect(place: str) -> Callable[[Request, bytes], None]:
    def answer(request: Request, body: bytes) -> None:
        request.begin(0, 302, Location=f"{place}/{request.path.rpartition('/')[2]}")

    return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose folders `first` and `second` are Fashion-MNIST's mirrors."""
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    use_mirrors(monkeypatch, f"{server.url}/first/", f"{server.url}/second/")
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


def use_mirrors(monkeypatch: pytest.MonkeyPatch, own: str, *others: str) -> None:
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [own])
    monkeypatch.setattr(idx, "MORE_MIRRORS", {"FashionMNIST": list(others)})


@pytest.fixture
def small(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Small files in place of Fashion-MNIST's, served by `server`, and no pauses."""
    images = np.random.default_rng(0).integers(256, size=(50, 28, 28), dtype=np.uint8)
    labels = np.arange(50, dtype=np.uint8) % 10
    values = dict(zip(NAMES, (images[:30], labels[:30], images[30:], labels[30:]), strict=True))
    server.files = {name: gzip.compress(pack_idx(array)) for name, array in values.items()}
    resources = [(name, hash_bytes(content)) for name, content in server.files.items()]
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", resources)
    monkeypatch.setattr(download, "DOWNLOAD_PAUSES", (0, 0))
    return values


def raw_folder(root: Path, dataset: str = "FashionMNIST") -> Path:
    folder = root / dataset / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def assert_read(root: Path, small: dict[str, np.ndarray], dataset: str = "FashionMNIST") -> None:
    """That reading gives exactly these values."""
    splits = read_idx(root, dataset)
    arrays = [array for name in ("train", "test") for array in splits[name]]
    for array, expected in zip(arrays, small.values(), strict=True):
        expected = expected[:, None] if expected.ndim == 3 else expected.astype(np.int64)
        assert np.array_equal(array, expected)


@pytest.mark.parametrize("dataset", idx.IDX_DATASETS)
def test_files_are_read_where_they_lie_plain_or_gzipped(
    server: Server, small: dict, tmp_path: Path, dataset: str
) -> None:
    for number, (name, content) in enumerate(server.files.items()):
        path = raw_folder(tmp_path, dataset) / name
        if number % 2:
            path.write_bytes(content)
        else:
            path.with_suffix("").write_bytes(gzip.decompress(content))
    before = sorted(path.name for path in raw_folder(tmp_path, dataset).iterdir())
    assert_read(tmp_path, small, dataset)
    assert sorted(path.name for path in raw_folder(tmp_path, dataset).iterdir()) == before
    assert not server.asked


def test_a_run_on_fashion_mnist(server: Server, small: dict, tmp_path: Path) -> None:
    for name, content in server.files.items():
        (raw_folder(tmp_path) / name).write_bytes(content)
    settings = ["data.val_size=10", "trainer.accelerator=cpu", "trainer.max_epochs=1"]
    places = [f"data.root={tmp_path}", f"output_dir={tmp_path}"]
    process = train_command("data=fashion_mnist", *settings, *places)
    assert process.returncode == 0, process.stderr
    found = read_result(only_run(tmp_path))["dataset"]
    assert found == {"name": "Fashion-MNIST", "sizes": {"train": 20, "val": 10, "test": 20}}


def repack(damage: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda content: gzip.compress(damage(gzip.decompress(content)))


@pytest.mark.parametrize(
    ("suffix", "damage", "problem"),
    [
        ("", lambda content: gzip.decompress(content)[:1_000], "its 1,000 bytes are not what its header says"),
        ("", lambda content: b"", "its 0 bytes are not what its header says"),
        ("", lambda content: PAGE, f"its {len(PAGE)} bytes are not what its header says"),
        ("", lambda content: pack_idx(np.zeros(4, np.uint8)), "its 12 bytes are not what its header says"),
        (".gz", repack(lambda content: content + b"more"), "its {size:,} bytes are not what its header says"),
        (".gz", lambda content: PAGE, "Not a gzipped file (b'<!')"),
        (".gz", lambda content: content[:-20], "Compressed file ended before the end-of-stream marker was reached"),
        (".gz", lambda content: content[:-8] + bytes(8), "CRC check failed"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_with_its_repair(
    server: Server, small: dict, tmp_path: Path, suffix: str, damage: Any, problem: str
) -> None:
    path = (raw_folder(tmp_path) / IMAGES).with_suffix(suffix)
    path.write_bytes(damage(server.files[IMAGES]))
    with pytest.raises(DataError) as caught:
        read_idx(tmp_path, "FashionMNIST")
    start = f"{path} is damaged: {problem.format(size=path.stat().st_size)}"
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(
        f". Delete it and run again, and it will be downloaded again: rm '{path}'"
    )


def test_a_data_set_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_idx(tmp_path, "FashionMnist")
    assert str(caught.value) == (
        "data.source.dataset=FashionMnist is not an option. Did you mean 'FashionMNIST'?"
    )


def shorten_stalls(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where an answer stalls: a busy machine may take its time for the others."""
    if answer in (stall, stay_silent):
        monkeypatch.setattr(download, "DOWNLOAD_STALL", 0.4)


@pytest.mark.parametrize(
    "answer",
    [drop, hang_up, stall, stay_silent, show_page, serve_other_content, cut_short, fail(500), fail(503), fail(429)],
)  # fmt: skip
def test_a_download_survives_what_passes(
    answer: Any, server: Server, small: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_stalls(answer, monkeypatch)
    server.plan = {"first": [answer, answer, serve], "second": [answer]}
    assert_read(tmp_path, small)
    asked = [tuple(path.split("/")[1:]) for path in server.asked]
    tries = [(mirror, IMAGES) for mirror in ("first", "second", "first", "second", "first")]
    assert asked == [*tries, *(("first", name) for name in NAMES[1:])]
    found = {path.name: path.read_bytes() for path in raw_folder(tmp_path).iterdir()}
    assert found == {".lock": b"", **server.files}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (drop, "IncompleteRead(100 bytes read, {rest} more expected)"),
        (hang_up, "Remote end closed connection without response"),
        (stall, "timed out"),
        (show_page, f"it sent {len(PAGE)} bytes whose MD5 is not {{md5}}"),
        (fail(500), "500 Server Error: Internal Server Error for url: {url}"),
        (redirect("/first"), "Exceeded 30 redirects."),
    ],
)
def test_when_all_fail_the_message_says_what_each_mirror_did(
    answer: Any, problem: str, server: Server, small: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_stalls(answer, monkeypatch)
    server.plan = {"first": [answer], "second": [fail(404)]}
    with pytest.raises(DataError) as caught:
        read_idx(tmp_path, "FashionMNIST")
    packed, first, second = server.files[IMAGES], f"{server.url}/first/", f"{server.url}/second/"
    wanted = ", ".join(f"{name} (MD5 {hash_bytes(content)})" for name, content in server.files.items())
    problem = problem.format(rest=len(packed) - 100, md5=hash_bytes(packed), url=first + IMAGES)
    assert str(caught.value) == (
        f"{IMAGES} is not in {raw_folder(tmp_path)} and could not be downloaded "
        f"({first}: {problem}; {second}: 404 Client Error: Not Found for url: {second}{IMAGES}). "
        f"Try again later, or put there: {wanted}"
    )
    assert [path.split("/")[1] for path in server.asked].count("second") == 3
    assert [path.name for path in raw_folder(tmp_path).iterdir()] == [".lock"]


def test_nothing_is_downloaded_nor_made_where_that_is_refused(
    server: Server, small: dict, tmp_path: Path
) -> None:
    folder = tmp_path / "FashionMNIST" / "raw"
    with refuse_downloads(), pytest.raises(DataError) as caught:
        read_idx(tmp_path, "FashionMNIST")
    assert str(caught.value) == f"{IMAGES} is not in {folder}"
    assert not server.asked
    assert not folder.exists()
    assert_read(tmp_path, small)


def test_a_redirect_is_followed(server: Server, small: dict, tmp_path: Path) -> None:
    server.plan = {"first": [redirect("/elsewhere")], "elsewhere": [redirect(f"{server.url}/at-last")]}
    assert_read(tmp_path, small)
    assert [path.split("/")[1] for path in server.asked] == ["first", "elsewhere", "at-last"] * 4


def test_a_dead_first_mirror_is_asked_once(
    server: Server, small: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as bound:  # and not listening: who connects is refused
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        tried = []
        connect = socket.socket.connect
        monkeypatch.setattr(
            socket.socket, "connect", lambda own, place: tried.append(place[1]) or connect(own, place)
        )
        use_mirrors(monkeypatch, f"http://127.0.0.1:{port}/", f"{server.url}/second/")
        assert_read(tmp_path, small)
    assert tried == [port, *[server.server_port] * 4]


def test_without_network_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "DOWNLOAD_PAUSES", (0,))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(DataError) as caught:
        read_idx(tmp_path, "FashionMNIST")
    mirrors = (*torchvision.datasets.FashionMNIST.mirrors, *idx.MORE_MIRRORS["FashionMNIST"])
    reasons = "; ".join(f"{mirror}: [Errno 111] Connection refused" for mirror in mirrors)
    assert f"could not be downloaded ({reasons})" in str(caught.value)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "FashionMNIST").write_text("")
    with pytest.raises(DataError) as caught:
        read_idx(tmp_path, "FashionMNIST")
    folder = tmp_path / "FashionMNIST" / "raw"
    assert str(caught.value).startswith(f"{folder} cannot store the download: ")
    assert os.strerror(errno.ENOTDIR) in str(caught.value)


def test_a_full_disk_leaves_nothing(server: Server, small: dict, tmp_path: Path) -> None:
    (raw_folder(tmp_path) / f".{IMAGES}.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"cannot store the download: .*No space left on device"):
        read_idx(tmp_path, "FashionMNIST")
    assert [path.name for path in raw_folder(tmp_path).iterdir()] == [".lock"]
    assert len(server.asked) == 1


def fetch(root: Path, mirrors: list[str], resources: list, results: Any, start: Any = None) -> None:
    """What a process of its own does: download what `mirrors` have, and count the training images."""
    for name in ("http_proxy", "https_proxy"):
        os.environ.pop(name, None)
    torchvision.datasets.FashionMNIST.mirrors = mirrors
    torchvision.datasets.FashionMNIST.resources = resources
    if start:
        start.wait()
    results.put(len(read_idx(root, "FashionMNIST")["train"].labels))


def test_a_killed_process_leaves_no_half_file(server: Server, small: dict, tmp_path: Path) -> None:
    own, results, reached = torchvision.datasets.FashionMNIST, CONTEXT.SimpleQueue(), threading.Event()

    def stall_and_tell(request: Request, body: bytes) -> None:
        reached.set()
        stall(request, body)

    server.plan = {"first": [stall_and_tell, serve]}
    process = CONTEXT.Process(target=fetch, args=(tmp_path, own.mirrors, own.resources, results))
    process.start()
    assert reached.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert {path.name for path in raw_folder(tmp_path).iterdir()} <= {".lock", f".{IMAGES}.part"}
    assert_read(tmp_path, small)
    assert {path.name for path in raw_folder(tmp_path).iterdir()} == {".lock", *NAMES}


def test_eight_processes_at_once_download_once(server: Server, small: dict, tmp_path: Path) -> None:
    server.plan = {"first": [drop, serve]}
    own, results, start = torchvision.datasets.FashionMNIST, CONTEXT.SimpleQueue(), CONTEXT.Barrier(8)
    arguments = (tmp_path, own.mirrors, own.resources, results, start)
    processes = [CONTEXT.Process(target=fetch, args=arguments) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert [results.get() for _ in processes] == [30] * 8
    assert [path.rpartition("/")[2] for path in server.asked] == [IMAGES, *NAMES]
    assert {path.name for path in raw_folder(tmp_path).iterdir()} == {".lock", *NAMES}
