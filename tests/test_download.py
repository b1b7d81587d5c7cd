"""The downloader against a server on loopback that cuts connections, lies about lengths and serves wrong bytes."""

from __future__ import annotations

import hashlib
import json
import random
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import mt_core.lab.download as module
from mt_core.lab import web
from mt_core.lab.download import ChecksumError, DownloadError, RemoteFile, download, file_lock

DATA = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
HALF = len(DATA) // 2


class Server:
    """Answers each GET with `answer(handler, number of the request)`; keeps the headers it was sent."""

    def __init__(self, answer: Callable[[Any, int], None]) -> None:
        self.requests: list[dict[str, str]] = []
        self.release = threading.Event()  # frees answers that wait
        outer = self

        class Handler(BaseHTTPRequestHandler):
            server_object = outer

            def do_GET(self) -> None:
                outer.requests.append(dict(self.headers))
                answer(self, len(outer.requests))

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:  # the client hanging up is part of the tests
                pass

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.base = f"http://127.0.0.1:{self.http.server_address[1]}"

    def remote(self, **changes: Any) -> RemoteFile:
        fields = {"name": "data.bin", "url": f"{self.base}/data.bin", "size": len(DATA), "sha256": sha(DATA)}
        return RemoteFile(**(fields | changes))

    def close(self) -> None:
        self.release.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Any, int], None]], Server]]:
    servers: list[Server] = []

    def start(answer: Callable[[Any, int], None]) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def send(handler: Any, status: int, body: bytes = b"", **headers: object) -> None:
    """A raw answer; what the headers claim is up to the caller."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(body)


def whole(handler: Any, data: bytes = DATA, cut: int | None = None, **headers: object) -> None:
    send(handler, 200, data[:cut], Content_Length=len(data), **headers)


def honest(handler: Any, data: bytes = DATA, etag: str = '"v1"') -> None:
    """What a good server does with Range and If-Range (RFC 9110)."""
    wanted, condition = handler.headers.get("Range"), handler.headers.get("If-Range", etag)
    if wanted is None or condition != etag:
        return whole(handler, data, ETag=etag)
    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    if start >= len(data):
        return send(handler, 416, Content_Range=f"bytes */{len(data)}")
    piece(handler, data, start, ETag=etag)


def piece(handler: Any, data: bytes, start: int, **headers: object) -> None:
    between = f"bytes {start}-{len(data) - 1}/{len(data)}"
    send(handler, 206, data[start:], Content_Range=between, Content_Length=len(data) - start, **headers)


def get(remote: RemoteFile, directory: Path, **options: Any) -> Path:
    return download(remote, directory, **({"progress": False, "timeout": 2.0, "backoff": 0.01} | options))


def left_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {"data.bin.lock"}


# Right answers, and answers that come in pieces


def test_a_file_arrives_once(serve, tmp_path):
    server = serve(lambda h, n: honest(h))
    directory = tmp_path / "new" / "cache"
    path = get(server.remote(), directory)
    assert path == directory / "data.bin" and path.read_bytes() == DATA
    assert left_in(directory) == {"data.bin"}  # no part, no note
    assert get(server.remote(), directory) == path
    assert len(server.requests) == 1 and "Range" not in server.requests[0]


def test_the_progress_bar_is_drawn_on_request(serve, tmp_path, capsys):
    get(serve(lambda h, n: honest(h)).remote(), tmp_path, progress=True)
    assert "data.bin: 100%" in capsys.readouterr().err


def test_a_cut_connection_is_gone_on_from(serve, tmp_path):
    server = serve(lambda h, n: whole(h, cut=HALF, ETag='"v1"') if n == 1 else honest(h))
    assert get(server.remote(), tmp_path).read_bytes() == DATA
    assert server.requests[1]["Range"] == f"bytes={HALF}-"
    assert server.requests[1]["If-Range"] == '"v1"'
    assert len(server.requests) == 2


def test_a_server_without_ranges_starts_over(serve, tmp_path):
    server = serve(lambda h, n: whole(h, cut=HALF if n == 1 else None))
    assert get(server.remote(), tmp_path).read_bytes() == DATA
    assert server.requests[1]["Range"] == f"bytes={HALF}-" and "If-Range" not in server.requests[1]


def test_a_weak_etag_is_not_sent_as_a_condition(serve, tmp_path):
    server = serve(lambda h, n: whole(h, cut=HALF, ETag='W/"v1"') if n == 1 else honest(h))
    assert get(server.remote(), tmp_path).read_bytes() == DATA
    assert "If-Range" not in server.requests[1]


def test_a_file_that_changes_between_tries_is_not_mixed(serve, tmp_path):
    server = serve(lambda h, n: whole(h, OTHER, cut=HALF, ETag='"old"') if n == 1 else honest(h, etag='"new"'))
    assert get(server.remote(), tmp_path).read_bytes() == DATA
    assert len(server.requests) == 2  # If-Range failed, the server sent the whole


def test_a_changed_file_behind_a_server_that_ignores_if_range(serve, tmp_path):
    def answer(handler, n):
        if n == 1:
            whole(handler, OTHER, cut=HALF, ETag='"old"')
        elif "Range" in handler.headers:
            between = f"bytes {HALF}-{len(DATA) - 1}/{len(DATA)}"
            send(handler, 206, Content_Range=between, ETag='"new"')  # the ETag alone must tell
        else:
            honest(handler, etag='"new"')

    server = serve(answer)
    assert get(server.remote(), tmp_path).read_bytes() == DATA
    assert len(server.requests) == 3 and "Range" not in server.requests[2]  # started over


@pytest.mark.parametrize("claim", ["bytes 7-299999/300000", "bytes 150000-299999/400000", "", "bytes */300000"])
def test_a_piece_of_something_else_is_thrown_away(serve, tmp_path, claim):
    def answer(handler, n):
        if n == 1:
            whole(handler, cut=HALF)
        elif "Range" in handler.headers:
            send(handler, 206, DATA[HALF:], Content_Range=claim)
        else:
            whole(handler)

    server = serve(answer)
    assert get(server.remote(), tmp_path).read_bytes() == DATA
    assert "Range" not in server.requests[2]


def test_wrong_pieces_without_etag_are_found_by_the_checksum(serve, tmp_path):
    server = serve(lambda h, n: whole(h, OTHER, cut=HALF) if n == 1 else honest(h))
    assert get(server.remote(), tmp_path).read_bytes() == DATA
    assert len(server.requests) == 3  # half of another file, the rest of ours, then ours from the start


def test_a_range_beyond_the_end_starts_over(serve, tmp_path):
    server = serve(lambda h, n: whole(h, cut=HALF) if n == 1 else send(h, 416) if n == 2 else honest(h))
    assert get(server.remote(), tmp_path).read_bytes() == DATA
    assert "Range" not in server.requests[2]


def test_many_cuts_do_not_count_while_the_file_grows(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PROGRESS", 20_000)

    def answer(handler, n):
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        between = f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"
        body = DATA[start : start + 30_000]
        send(handler, 206 if start else 200, body, Content_Length=len(DATA) - start, Content_Range=between)

    server = serve(answer)
    assert get(server.remote(), tmp_path, retries=2).read_bytes() == DATA
    assert len(server.requests) == 10


def test_cuts_without_progress_end(serve, tmp_path):
    server = serve(lambda h, n: whole(h, cut=HALF))
    with pytest.raises(DownloadError, match=r"4 times in a row.*connection ended at byte 150,000 of 300,000"):
        get(server.remote(), tmp_path, retries=4)
    assert len(server.requests) == 4
    assert (tmp_path / "data.bin.part").read_bytes() == DATA[:HALF]  # kept for the next call
    assert not (tmp_path / "data.bin").exists()


# Wrong answers


def test_wrong_bytes_never_appear(serve, tmp_path):
    server = serve(lambda h, n: whole(h, OTHER))
    with pytest.raises(ChecksumError) as caught:
        get(server.remote(), tmp_path)
    assert sha(DATA) in str(caught.value) and sha(OTHER) in str(caught.value)
    assert left_in(tmp_path) == {"data.bin.part.json"}  # neither the file nor a part of it
    assert len(server.requests) == 1  # a whole wrong file is not asked for again


@pytest.mark.parametrize("length", [HALF, len(DATA) - 1, len(DATA) + 1, 10**15])
def test_a_length_that_is_not_the_files_is_refused_and_costs_nothing(serve, tmp_path, length):
    server = serve(lambda h, n: whole(h, cut=HALF) if n == 1 else send(h, 200, DATA, Content_Length=length))
    with pytest.raises(DownloadError, match=f"offers {length} bytes, the file has 300,000"):
        get(server.remote(), tmp_path)
    assert len(server.requests) == 2
    assert (tmp_path / "data.bin.part").read_bytes() == DATA[:HALF]  # a login page does not destroy what we had


def test_a_piece_that_claims_too_little_is_asked_for_again(serve, tmp_path):
    def answer(handler, n):
        if n == 1:
            whole(handler, cut=HALF)
        elif n == 2:
            between = f"bytes {HALF}-{len(DATA) - 1}/{len(DATA)}"
            send(handler, 206, DATA[HALF:], Content_Range=between, Content_Length=10)
        else:
            honest(handler)

    server = serve(answer)
    assert get(server.remote(), tmp_path).read_bytes() == DATA
    assert server.requests[2]["Range"] == f"bytes={HALF + 10}-"


def test_no_length_at_all(serve, tmp_path):
    server = serve(lambda h, n: send(h, 200, DATA[:HALF]) if n == 1 else send(h, 200, DATA))
    assert get(server.remote(), tmp_path).read_bytes() == DATA  # the early end was noticed, the right end accepted
    assert len(server.requests) == 2


def test_an_endless_body_is_stopped_at_the_size(serve, tmp_path):
    sent = [0]

    def answer(handler, n):
        send(handler, 200)
        while not handler.server_object.release.is_set():
            sent[0] += handler.wfile.write(bytes(65536))

    server = serve(answer)
    with pytest.raises(DownloadError, match="sends more than the 300,000 bytes"):
        get(server.remote(), tmp_path)
    assert left_in(tmp_path) == {"data.bin.part.json"}
    assert len(server.requests) == 1
    assert sent[0] < 50_000_000  # what fits into the socket's buffers, not until the disk is full


def test_a_stalled_server_is_given_up(serve, tmp_path):
    def answer(handler, n):
        whole(handler, cut=HALF)
        handler.wfile.flush()
        handler.server_object.release.wait(10)

    server, began = serve(answer), time.monotonic()
    with pytest.raises(DownloadError, match=r"2 times in a row.*timed out.*150,000 of 300,000 bytes are kept"):
        get(server.remote(), tmp_path, timeout=0.2, retries=2)
    assert time.monotonic() - began < 5


def test_statuses(serve, tmp_path):
    missing = serve(lambda h, n: send(h, 404))
    with pytest.raises(DownloadError, match="HTTP status 404"):
        get(missing.remote(), tmp_path)
    assert len(missing.requests) == 1  # asking again will not help

    broken = serve(lambda h, n: send(h, 500))
    with pytest.raises(DownloadError, match=r"3 times in a row.*HTTP status 500"):
        get(broken.remote(), tmp_path, retries=3)
    assert len(broken.requests) == 3

    busy = serve(lambda h, n: send(h, 503) if n == 1 else honest(h))
    assert get(busy.remote(), tmp_path).read_bytes() == DATA

    odd = serve(lambda h, n: piece(h, DATA, 0))
    with pytest.raises(DownloadError, match="status 206"):  # a piece nobody asked for
        get(odd.remote(name="odd.bin"), tmp_path)


def test_a_compressed_answer_is_refused(serve, tmp_path):
    server = serve(lambda h, n: whole(h, Content_Encoding="gzip"))
    with pytest.raises(DownloadError, match="encoding 'gzip'"):
        get(server.remote(), tmp_path)
    assert server.requests[0]["Accept-Encoding"] == "identity"


# Redirects


def test_a_redirect_is_followed_with_its_range(serve, tmp_path):
    store = serve(lambda h, n: whole(h, cut=HALF, ETag='"v1"') if n == 1 else honest(h))
    server = serve(lambda h, n: send(h, 302, Location=f"{store.base}/elsewhere"))
    assert get(server.remote(), tmp_path).read_bytes() == DATA
    assert store.requests[1]["Range"] == f"bytes={HALF}-"


@pytest.mark.parametrize("goal", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,hello"])
def test_a_redirect_out_of_the_web_is_refused(serve, tmp_path, goal):
    server = serve(lambda h, n: send(h, 302, Location=goal))
    with pytest.raises(DownloadError, match=r"302|refused"):
        get(server.remote(), tmp_path)
    assert len(server.requests) == 1 and left_in(tmp_path) == set()


def test_a_redirect_loop_ends(serve, tmp_path):
    server = serve(lambda h, n: send(h, 302, Location="/data.bin"))
    with pytest.raises(DownloadError, match="infinite loop"):
        get(server.remote(), tmp_path)
    assert len(server.requests) < 15


def test_a_redirect_with_an_endless_body_is_not_read(serve, tmp_path):
    def answer(handler, n):
        if n > 1:
            return honest(handler)
        send(handler, 302, Location="/next")
        while not handler.server_object.release.is_set():
            handler.wfile.write(bytes(65536))

    assert get(serve(answer).remote(), tmp_path).read_bytes() == DATA


def test_a_certificate_that_does_not_hold_is_not_tried_again(monkeypatch, tmp_path):
    asked = []

    class Opener:
        def open(self, request, timeout):
            asked.append(request.full_url)
            raise urllib.error.URLError(ssl.SSLCertVerificationError("self-signed certificate"))

    monkeypatch.setattr(web, "_opener", Opener)
    remote = RemoteFile(name="data.bin", url="https://example.org/data.bin", size=1, sha256="0" * 64)
    with pytest.raises(
        DownloadError, match=r"the certificate of https://example\.org/data\.bin does not hold: .*self-s"
    ):
        get(remote, tmp_path)
    assert len(asked) == 1


def test_https_is_never_downgraded():
    class Closed:
        closed = False

        def close(self):
            self.closed = True

    redirects, body = web._SafeRedirects(), Closed()
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(DownloadError, match="from https to http: refused"):
        redirects.redirect_request(request, body, 302, "Found", {}, "http://example.org/a")
    assert body.closed
    assert redirects.redirect_request(request, Closed(), 302, "Found", {}, "https://example.org/b") is not None


# The machine on this side


def test_without_a_network_the_message_says_what_to_do(serve, tmp_path):
    server = serve(lambda h, n: honest(h))
    remote = server.remote()
    server.close()
    with pytest.raises(DownloadError) as caught:
        get(remote, tmp_path, retries=2)
    message = str(caught.value)
    assert "no answer" in message and f"put the file at {tmp_path / 'data.bin'}" in message
    assert sha(DATA) in message and "300,000 bytes" in message

    (tmp_path / "data.bin").write_bytes(DATA)  # done as told
    assert get(remote, tmp_path).read_bytes() == DATA


def test_an_intact_file_is_used_without_writing(serve, tmp_path):
    server = serve(lambda h, n: send(h, 500))
    (tmp_path / "data.bin").write_bytes(DATA)
    assert get(server.remote(), tmp_path) == tmp_path / "data.bin"
    assert server.requests == [] and {path.name for path in tmp_path.iterdir()} == {"data.bin"}  # not even a lock


def test_a_damaged_file_is_fetched_again(serve, tmp_path):
    server = serve(lambda h, n: honest(h))
    (tmp_path / "data.bin").write_bytes(OTHER)  # same size, other bytes
    assert get(server.remote(), tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("note", [None, "{", "[]", '{"sha256": "of another file"}'])
def test_a_part_that_is_not_ours_is_thrown_away(serve, tmp_path, note):
    server = serve(lambda h, n: honest(h))
    (tmp_path / "data.bin.part").write_bytes(OTHER[:HALF])
    if note is not None:
        (tmp_path / "data.bin.part.json").write_text(note, encoding="utf-8")
    assert get(server.remote(), tmp_path).read_bytes() == DATA
    assert "Range" not in server.requests[0]


def test_a_part_that_is_a_link_is_not_written_through(serve, tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("mine", encoding="utf-8")
    cache = tmp_path / "cache"
    cache.mkdir()
    try:
        (cache / "data.bin.part").symlink_to(outside)
    except OSError as error:
        pytest.skip(f"this system lets this user make no symbolic links: {error}")
    (cache / "data.bin.part.json").write_text(json.dumps({"sha256": sha(DATA)}), encoding="utf-8")
    assert get(serve(lambda h, n: honest(h)).remote(), cache).read_bytes() == DATA
    assert outside.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("way", ["the directory is a file", "it is below one", "data.bin.lock", "data.bin"])
def test_a_place_that_cannot_be_written_is_named(serve, tmp_path, way):
    directory = tmp_path / "cache"
    if way in ("data.bin", "data.bin.lock"):
        (directory / way).mkdir(parents=True)
    else:
        directory.write_text("mine", encoding="utf-8")
        directory = directory / "below" if way == "it is below one" else directory
    with pytest.raises(DownloadError, match=r"cannot be used \(.*: make it a folder.*MICROTRANSFORMER_CACHE") as caught:
        get(serve(lambda h, n: honest(h)).remote(), directory)
    assert str(directory) in str(caught.value)


def test_a_full_disk_is_noticed_before(serve, tmp_path, monkeypatch):
    server = serve(lambda h, n: honest(h))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(DownloadError, match=r"bytes free in .*, 1,000 are: make room"):
        get(server.remote(), tmp_path)
    assert server.requests == []


def test_a_disk_that_fills_up_keeps_what_it_has(serve, tmp_path, monkeypatch):
    server, write = serve(lambda h, n: honest(h)), module._write_all

    def full(out, block):
        if out.tell() + len(block) > HALF:
            raise OSError(28, "No space left on device")
        write(out, block)

    monkeypatch.setattr(module, "_write_all", full)
    with pytest.raises(DownloadError, match=r"cannot write .*No space left"):
        get(server.remote(), tmp_path)
    monkeypatch.setattr(module, "_write_all", write)
    assert get(server.remote(), tmp_path).read_bytes() == DATA
    assert server.requests[1]["Range"] != "bytes=0-"


def test_two_calls_at_once_wait_for_each_other(tmp_path):
    with file_lock(tmp_path / "data.bin.lock", timeout=1):
        with pytest.raises(DownloadError, match=r"another process has held .*data\.bin\.lock for 0\.1 s"):
            remote = RemoteFile(name="data.bin", url="http://127.0.0.1:9/", size=1, sha256="0" * 64)
            get(remote, tmp_path, lock_timeout=0.1)
    with file_lock(tmp_path / "data.bin.lock", timeout=0):
        pass  # free again


CHILD = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("download", sys.argv[1])
module = sys.modules["download"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
name, url, size, sha256, directory = sys.argv[2:]
remote = module.RemoteFile(name=name, url=url, size=int(size), sha256=sha256)
module.download(remote, pathlib.Path(directory), progress=False, timeout=10)
"""


def child(remote: RemoteFile, directory: Path) -> subprocess.Popen[bytes]:
    """A process that imports the module from its file, without the rest of the package, and downloads."""
    facts = [remote.name, remote.url, str(remote.size), remote.sha256, str(directory)]
    return subprocess.Popen([sys.executable, "-c", CHILD, module.__file__, *facts], stderr=subprocess.PIPE)


def test_two_processes_download_once(serve, tmp_path):
    def answer(handler, n):
        time.sleep(0.3)  # long enough for the other process to come to the lock
        honest(handler)

    server = serve(answer)
    processes = [child(server.remote(), tmp_path) for _ in range(2)]
    assert [(process.communicate(timeout=20)[1], process.returncode) for process in processes] == [(b"", 0)] * 2
    assert (tmp_path / "data.bin").read_bytes() == DATA
    assert len(server.requests) == 1


def test_a_killed_process_leaves_a_part_to_go_on_from(serve, tmp_path):
    def answer(handler, n):
        if n > 1:
            return honest(handler)
        whole(handler, cut=HALF, ETag='"v1"')
        handler.wfile.flush()
        handler.server_object.release.wait(20)

    server = serve(answer)
    process, part = child(server.remote(), tmp_path), tmp_path / "data.bin.part"
    deadline = time.monotonic() + 15
    while (not part.exists() or part.stat().st_size < HALF) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()  # SIGKILL: no chance to tidy up
    process.communicate(timeout=10)
    assert process.returncode != 0 and not (tmp_path / "data.bin").exists()
    assert part.stat().st_size == HALF
    assert get(server.remote(), tmp_path).read_bytes() == DATA  # the lock died with its process
    assert server.requests[1]["Range"] == f"bytes={HALF}-"


# Names from outside


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/b", "a\\b", "/etc/x", "C:x", ".hidden", "a.", "a b", "x\n", "ä", "x" * 101),
        *("CON", "nul.txt", "com1.bin"),  # devices on Windows
        *("a.part", "a.lock", "a.json"),  # the downloader's own
    ],
)
def test_a_name_cannot_leave_the_directory(name):
    with pytest.raises(ValueError, match="file name"):
        RemoteFile(name=name, url="https://example.org/x", size=1, sha256="0" * 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": "file:///etc/passwd"}, "not http:// or https://"),
        ({"url": "https:///nohost"}, "with a host"),
        ({"size": 0}, "at least 1"),
        ({"sha256": "abc"}, "64 lower-case"),
        ({"sha256": "A" * 64}, "64 lower-case"),
    ],
)
def test_a_file_is_pinned_properly(change, message):
    fields: dict[str, Any] = {"name": "a.bin", "url": "https://example.org/x", "size": 1, "sha256": "0" * 64}
    with pytest.raises(ValueError, match=message):
        RemoteFile(**(fields | change))
