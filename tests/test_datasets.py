import gzip
import hashlib
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import MNIST

from cnn_lab import datasets as mnist
from cnn_lab.data import ImageDataModule
from cnn_lab.errors import DataError
from conftest import ENVIRONMENT, MNIST_ROOT, PROJECT, needs_mnist, only_run, read_result

PAGE = b"<!DOCTYPE html>\n<html>" + b"<p>Sign in to the network</p>\n" * 20 + b"</html>"


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
        self.blocks = 0
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


def drip(request: Request, body: bytes) -> None:
    request.begin(len(body))
    for value in body:
        request.wfile.write(bytes([value]))
        request.server.closing.wait(0.02)


def show_page(request: Request, body: bytes) -> None:
    request.send(PAGE)


def serve_other_content(request: Request, body: bytes) -> None:
    request.send(gzip.compress(gzip.decompress(body)[::-1]))


def serve_other_size(request: Request, body: bytes) -> None:
    request.send(gzip.compress(b"\0" * 20))


def serve_a_bomb(request: Request, body: bytes) -> None:
    request.send(gzip.compress(b"\0" * 5_000_000))


def cut_short(request: Request, body: bytes) -> None:
    request.send(body[:-20])


def fail(status: int) -> Callable[[Request, bytes], None]:
    return lambda request, body: request.send(PAGE, status)


def redirect(place: str) -> Callable[[Request, bytes], None]:
    def answer(request: Request, body: bytes) -> None:
        request.begin(0, 302, Location=f"{place}/{request.path.rpartition('/')[2]}")

    return answer


def send_without_end(request: Request, body: bytes) -> None:
    request.begin(None)
    while True:
        request.wfile.write(bytes(1 << 16))
        request.server.blocks += 1


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that is both of MNIST's mirrors, as its folders `first` and `second`."""
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(MNIST, "mirrors", [f"{server.url}/first/", f"{server.url}/second/"])
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def tiny(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Small files in place of MNIST's, served by `server`, and short waits."""
    generator = np.random.default_rng(0)
    contents, files = {}, {}
    for split, (images, labels) in mnist.FILES.items():
        for file, size in ((images, 2 * 28 * 28), (labels, 2)):
            values = generator.integers(10, size=size, dtype=np.uint8)
            contents[file.name] = bytes(file.offset) + values.tobytes()
        files[split] = tuple(
            file._replace(bytes=len(contents[file.name]), md5=hash_bytes(contents[file.name]))
            for file in (images, labels)
        )
    monkeypatch.setattr(mnist, "FILES", files)
    monkeypatch.setattr(mnist, "SIZES", {"train": 2, "test": 2})
    monkeypatch.setattr(mnist, "ALL_FILES", (files["train"][0],))
    monkeypatch.setattr(mnist, "DOWNLOAD_PAUSES", (0, 0))
    server.files = {f"{name}.gz": gzip.compress(content) for name, content in contents.items()}
    mnist.read_mnist.cache_clear()
    return contents


def hash_bytes(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def shorten_stalls(answer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where an answer stalls: a busy machine may take its time for the others."""
    if answer in (stall, stay_silent):
        monkeypatch.setattr(mnist, "DOWNLOAD_STALL", 0.4)


def list_names(root: Path) -> list[str]:
    return sorted(path.name for path in mnist.raw_folder(root).iterdir())


IMAGES = "train-images-idx3-ubyte"


@pytest.mark.parametrize(
    "answer",
    [
        drop,
        hang_up,
        stall,
        stay_silent,
        show_page,
        serve_other_content,
        serve_other_size,
        serve_a_bomb,
        cut_short,
        fail(500),
        fail(503),
        fail(429),
        send_without_end,
    ],
)
def test_a_download_survives_what_passes(
    answer, server: Server, tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_stalls(answer, monkeypatch)
    server.plan = {"first": [answer, answer, serve], "second": [answer]}
    mnist.download_mnist(tmp_path)
    asked = [path.split("/")[1] for path in server.asked]
    assert asked == ["first", "second", "first", "second", "first"]
    assert list_names(tmp_path) == [".lock", IMAGES]
    assert (mnist.raw_folder(tmp_path) / IMAGES).read_bytes() == tiny[IMAGES]


@pytest.mark.parametrize(
    ("answer", "tries", "problem"),
    [
        (drop, 3, "the connection dropped after 100 of {packed} bytes"),
        (hang_up, 3, "Remote end closed connection without response"),
        (stall, 3, "no byte came for 0.4 seconds"),
        (show_page, 3, "Not a gzipped file (b'<!')"),
        (serve_other_content, 3, "its content is not MNIST's (its MD5 is not {md5})"),
        (serve_other_size, 3, "it has 20 bytes instead of 1,584"),
        (cut_short, 3, "Compressed file ended before the end-of-stream marker was reached"),
        (fail(500), 3, "HTTP status 500"),
        (send_without_end, 3, "it sent more than 2,608 bytes"),
        (fail(404), 1, "HTTP status 404"),
        (drip, 1, "it sent {sent} bytes in 0.2 seconds"),
        (redirect("/first"), 5, "HTTP status 302, a redirect that cannot be followed"),
    ],
)
def test_when_all_fail_the_message_says_what_each_mirror_did(
    answer, tries: int, problem: str, server: Server, tiny: dict, tmp_path: Path, monkeypatch
) -> None:
    shorten_stalls(answer, monkeypatch)
    if answer is drip:
        monkeypatch.setattr(mnist, "DOWNLOAD_LIMIT", 0.2)
    monkeypatch.setattr(MNIST, "mirrors", MNIST.mirrors[:1])
    server.plan = {"first": [answer]}
    with pytest.raises(DataError) as caught:
        mnist.download_mnist(tmp_path)
    message = str(caught.value)
    problem = problem.format(
        packed=f"{len(server.files[f'{IMAGES}.gz']):,}",
        md5=hash_bytes(tiny[IMAGES]),
        sent=message.partition("it sent ")[2].partition(" ")[0],
    )
    assert message == f"{IMAGES} could not be downloaded ({MNIST.mirrors[0]}: {problem})"
    assert len(server.asked) == tries
    assert server.blocks < 3 * 200  # of 64 KB: no more than what fits into the buffers of sockets
    assert list_names(tmp_path) == [".lock"]


def test_both_mirrors_are_named(server: Server, tiny: dict, tmp_path: Path) -> None:
    server.plan = {"first": [fail(404)], "second": [drop, drop, fail(503)]}
    with pytest.raises(DataError) as caught:
        mnist.download_mnist(tmp_path)
    first, second = MNIST.mirrors
    assert str(caught.value) == (
        f"{IMAGES} could not be downloaded ({first}: HTTP status 404; {second}: HTTP status 503)"
    )
    assert len(server.asked) == 1 + 3


def test_a_redirect_is_followed(server: Server, tiny: dict, tmp_path: Path) -> None:
    server.plan = {"first": [redirect("/elsewhere")], "elsewhere": [redirect(f"{server.url}/at-last")]}
    mnist.download_mnist(tmp_path)
    assert [path.split("/")[1] for path in server.asked] == ["first", "elsewhere", "at-last"]
    assert (mnist.raw_folder(tmp_path) / IMAGES).read_bytes() == tiny[IMAGES]


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_dead_first_mirror_is_asked_once(server: Server, tiny: dict, tmp_path: Path, monkeypatch) -> None:
    tried = []
    connect = socket.create_connection
    monkeypatch.setattr(
        socket, "create_connection", lambda place, *rest: tried.append(place[1]) or connect(place, *rest)
    )
    dead = closed_port()
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{dead}/", f"{server.url}/second/"])
    monkeypatch.setattr(mnist, "ALL_FILES", (*mnist.FILES["train"], *mnist.FILES["test"]))
    mnist.download_mnist(tmp_path)
    assert tried == [dead, *[server.server_port] * 4]
    assert {name: (mnist.raw_folder(tmp_path) / name).read_bytes() for name in tiny} == tiny


def test_without_network_it_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        mnist.download_mnist(tmp_path)
    assert time.monotonic() - start < 1
    reasons = "; ".join(f"{mirror}: it cannot be reached: Connection refused" for mirror in MNIST.mirrors)
    assert str(caught.value) == f"{IMAGES} could not be downloaded ({reasons})"


def test_a_name_that_nobody_knows_ends_it_at_once(tmp_path: Path, server: Server, monkeypatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", raise_unknown_name)
    with pytest.raises(DataError, match="it cannot be reached: Name or service not known"):
        mnist.download_mnist(tmp_path)
    assert not server.asked


def raise_unknown_name(*_: object, **__: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_without_network_the_sample_stands_in_or_the_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    data = ImageDataModule(str(tmp_path))
    data.prepare_data()
    data.setup()
    assert data.name == "MNIST sample (5,000)"
    assert "train-images-idx3-ubyte could not be downloaded" in data.sample_reason
    strict = ImageDataModule(str(tmp_path), allow_sample=False)
    with pytest.raises(
        DataError, match=r"^MNIST is not in .*raw and cannot be downloaded: .*data\.allow_sample=true"
    ):
        strict.prepare_data()


def test_files_that_came_meanwhile_are_used(server: Server, tiny: dict, tmp_path: Path) -> None:
    server.plan = {"first": [fail(404)], "second": [fail(404)]}
    data = ImageDataModule(str(tmp_path), val_size=0)
    data.prepare_data()
    assert "HTTP status 404" in data.sample_reason
    for name, content in tiny.items():
        (mnist.raw_folder(tmp_path) / name).write_bytes(content)
    data.setup()
    assert (data.name, data.sample_reason) == ("MNIST", "")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "MNIST").write_text("")
    with pytest.raises(
        DataError, match=rf"^MNIST cannot be stored in {tmp_path}/MNIST/raw: .*Not a directory"
    ):
        mnist.download_mnist(tmp_path)


def test_what_a_killed_process_left_is_replaced(server: Server, tiny: dict, tmp_path: Path) -> None:
    folder = mnist.raw_folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / f".{IMAGES}.part").write_bytes(b"half")
    assert not mnist.is_complete(tmp_path)
    mnist.download_mnist(tmp_path)
    assert list_names(tmp_path) == [".lock", IMAGES]


def test_a_full_disk_leaves_nothing(server: Server, tiny: dict, tmp_path: Path, monkeypatch) -> None:
    def write_half(path: Path, content: bytes) -> None:
        path.open("wb").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(DataError, match=r"cannot be stored in .*No space left on device"):
        mnist.download_mnist(tmp_path)
    assert list_names(tmp_path) == [".lock"]


@pytest.fixture
def hashed(tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Reads the small files that lie, a minute old, below `tmp_path`; gives how many were hashed."""
    folder = mnist.raw_folder(tmp_path)
    folder.mkdir(parents=True)
    for name, content in tiny.items():
        (folder / name).write_bytes(content)
        set_age(folder / name, 60)
    count = []
    compute = hashlib.md5
    monkeypatch.setattr(hashlib, "md5", lambda *args, **rest: count.append(1) or compute(*args, **rest))

    def read() -> int:
        count.clear()
        mnist.read_mnist.cache_clear()
        splits = mnist.read_mnist(tmp_path)
        assert splits["train"].images.tobytes() == tiny[IMAGES][16:]
        return len(count)

    yield read
    mnist.read_mnist.cache_clear()


def set_age(path: Path, seconds: float) -> None:
    moment = time.time_ns() - int(seconds * 1e9)
    os.utime(path, ns=(moment, moment))


def test_files_are_hashed_once(hashed: Callable[[], int], tmp_path: Path) -> None:
    assert [hashed(), hashed(), hashed()] == [4, 0, 0]
    set_age(mnist.raw_folder(tmp_path) / "t10k-labels-idx1-ubyte", 30)
    assert [hashed(), hashed()] == [1, 0]


def test_a_file_that_changed_since_does_not_pass(hashed: Callable[[], int], tmp_path: Path) -> None:
    hashed()
    path = mnist.raw_folder(tmp_path) / IMAGES
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(DataError, match="is damaged: its content is not MNIST's"):
        hashed()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="is damaged: it has 1,583 bytes instead of 1,584"):
        hashed()


def test_a_file_of_this_moment_is_not_trusted_yet(hashed: Callable[[], int], tmp_path: Path) -> None:
    set_age(mnist.raw_folder(tmp_path) / IMAGES, -60)
    assert [hashed(), hashed()] == [4, 1]


@pytest.mark.parametrize("content", ["", "[1, 2", "[]", "null", '{"train-images-idx3-ubyte": 3}', "\udcff"])
def test_a_broken_record_is_none(hashed: Callable[[], int], tmp_path: Path, content: str) -> None:
    record = mnist.raw_folder(tmp_path) / mnist.CHECKED_FILE
    record.write_text(content, errors="surrogateescape")
    assert [hashed(), hashed()] == [4, 0]


def test_where_no_record_can_be_written_files_are_hashed_each_time(
    hashed: Callable[[], int], tmp_path: Path
) -> None:
    (mnist.raw_folder(tmp_path) / mnist.CHECKED_FILE).mkdir()  # also root cannot write this
    assert [hashed(), hashed()] == [4, 4]


@pytest.fixture(scope="session")
def packed() -> dict[str, bytes]:
    """MNIST's files as mirrors have them."""
    folder = mnist.raw_folder(MNIST_ROOT)
    return {
        f"{file.name}.gz": gzip.compress((folder / file.name).read_bytes(), 1) for file in mnist.ALL_FILES
    }


# What a run does, but for torch and Lightning, whose import takes seconds.
FETCH = """
import sys
from cnn_lab import datasets as mnist
assert not mnist.is_complete(sys.argv[1])
print("ready", flush=True)
input()
mnist.download_mnist(sys.argv[1])
print(len(mnist.read_mnist(sys.argv[1])["train"].labels), "torch" in sys.modules)
"""


@needs_mnist
def test_eight_processes_with_nothing_to_train_on_download_once(
    server: Server, packed: dict, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    options = {
        "env": {**os.environ, **ENVIRONMENT, "http_proxy": server.url},
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    arguments = ["trainer=debug", "trainer.accelerator=cpu", f"data.root={root}", f"output_dir={tmp_path}"]
    train = [sys.executable, str(PROJECT / "scripts" / "train.py"), *arguments]
    run = subprocess.Popen(train, **options)
    others = [subprocess.Popen([sys.executable, "-c", FETCH, str(root)], **options) for _ in range(7)]
    for process in others:
        assert process.stdout.readline() == "ready\n"

    def start_others_and_drop(request: Request, body: bytes) -> None:
        for process in others:
            process.stdin.write("\n")
            process.stdin.flush()
        drop(request, body)

    server.files = packed
    server.plan = {"mnist": [start_others_and_drop, serve]}  # torchvision's mirror by http
    output, errors = run.communicate(timeout=60)
    assert run.returncode == 0, output + errors
    result = read_result(only_run(tmp_path))
    assert (result["status"], result["dataset"]["name"]) == ("completed", "MNIST")
    assert [process.communicate(timeout=30) for process in others] == [("60000 False\n", "")] * 7
    assert [path.rpartition("/")[2] for path in server.asked] == [next(iter(packed)), *packed]
    names = {file.name for file in mnist.ALL_FILES}
    assert set(list_names(root)) - {mnist.CHECKED_FILE} == {".lock", *names}
