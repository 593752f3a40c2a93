"""An address of a client leads to public hosts alone, is resolved once, and is read within limits."""

import asyncio
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from types import SimpleNamespace

import pytest

from hmba_hf.serving import fetching
from hmba_hf.serving.errors import RequestError
from hmba_hf.serving.fetching import is_public
from hmba_hf.serving.limits import ServingLimits
from hmba_hf.serving.resolving import MAX_LOOKUPS

LIMITS = ServingLimits(max_upload_bytes=1000, max_body_seconds=1.0)
SAFE_HOST = "clips.test"
# A certificate of that name, signed by itself, and its key, which protects nothing: both are for this test alone.
#   openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj /CN=clips.test \
#       -addext subjectAltName=DNS:clips.test -addext basicConstraints=critical,CA:TRUE
CERTIFICATE = """
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgzpvrIOl7p3GinUzl
WQjVOS+uQJJP51EP7/nI0P7jwvyhRANCAASfQKWNSJLDDh4jHZuG3W+9l+7nZBO6
77g0H78yNjaHEZNjI8SfJvzkuvDJ/gLdwzIvP9n0etxbq1r66aHgHMh2
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBmTCCAT6gAwIBAgIUU2PdXjbGso/+HLQqftYuqdGAZz0wCgYIKoZIzj0EAwIw
FTETMBEGA1UEAwwKY2xpcHMudGVzdDAgFw0yNjExMzAxMTE5MzZaGA8yMTI2MTEw
NjExMTkzNlowFTETMBEGA1UEAwwKY2xpcHMudGVzdDBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABJ9ApY1IksMOHiMdm4bdb72X7udkE7rvuDQfvzI2NocRk2MjxJ8m
/OS68Mn+At3DMi8/2fR63FurWvrpoeAcyHajajBoMB0GA1UdDgQWBBRz5wb5LoLX
7aOU74CQg5QZZEZSGTAfBgNVHSMEGDAWgBRz5wb5LoLX7aOU74CQg5QZZEZSGTAV
BgNVHREEDjAMggpjbGlwcy50ZXN0MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0E
AwIDSQAwRgIhAKQlQ4Sd0WswTTAKnB9l+Qw1/uiDUnRSlD5bIfGAifbDAiEAgJA0
fBSKXoYblWYkFCxzMTmrDK9+zwKedq4RoH3sHVk=
-----END CERTIFICATE-----
"""


class Handler(BaseHTTPRequestHandler):
    """Answers as the path says, and counts requests."""

    def do_GET(self):
        self.server.paths.append((self.path, self.headers["Host"]))
        name, _, rest = self.path[1:].partition("?")
        getattr(self, name)(rest)

    def file(self, size, stated=None):
        self.send_response(200)
        self.send_header("Content-Length", stated or size)
        self.end_headers()
        self.wfile.write(b"a" * int(size))

    def short(self, size):
        self.file(size, stated="500")

    def endless(self, _):
        self.send_response(200)
        self.end_headers()
        while not self.server.is_ended.wait(0.05):
            self.wfile.write(b"a")

    def silent(self, _):
        while not self.server.is_ended.wait(0.05):
            self.wfile.write(b"H")

    def large(self, _):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"a" * 5000)

    def missing(self, _):
        self.send_error(404)

    def redirect(self, target):
        self.send_response(302)
        self.send_header("Location", target)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A server on this machine's own address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.paths = []
        server.is_ended = threading.Event()
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.is_ended.set()
        server.shutdown()


@pytest.fixture
def names(monkeypatch):
    """Names of the test's own, with the addresses that they have one after the other."""
    known = {}
    resolve = socket.getaddrinfo

    def answer(host, port, *arguments, **options):
        if host in known:
            host = known[host].pop(0)
        return resolve(host, port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return known


@pytest.fixture
def only_this_is_public(monkeypatch):
    """127.0.0.1 counts as a public address, 127.0.0.2 does not."""
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")


def address_of(server, path, host="127.0.0.1"):
    return f"http://{host}:{server.server_port}/{path}"


def fetch(address, limits):
    return asyncio.run(fetched(address, limits))


async def fetched(address, limits):
    fetcher = fetching.Fetcher(limits)
    try:
        return await fetcher.fetch(address, limits.max_upload_bytes)
    finally:
        await asyncio.to_thread(fetcher.close)


def refusal(address, limits=LIMITS):
    with pytest.raises(RequestError) as refused:
        fetch(address, limits)
    return refused.value.status, refused.value.code, str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
        ),
        *(
            "100.64.0.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "198.18.0.1",
            "::",
            "::1",
        ),
        *("fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::"),
        *("64:ff9b:1::7f00:1", "::127.0.0.1", "::ffff:0:127.0.0.1", "fec0::1"),
    ],
)
def test_an_address_that_is_not_of_the_public_network_is_none(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_a_public_address_is_one(address):
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "camera"])
def test_no_private_host_gets_a_connection(server, names, host):
    names["camera"] = ["127.0.0.1"]
    assert refusal(address_of(server, "file?10", host))[:2] == (400, "private_address")
    assert server.paths == []


def test_a_name_is_resolved_once_so_that_a_second_answer_changes_nothing(server, names, only_this_is_public):
    names["camera"] = ["127.0.0.1", "127.0.0.2"]
    assert fetch(address_of(server, "file?10", "camera"), LIMITS).read() == b"a" * 10
    assert names["camera"] == ["127.0.0.2"]
    assert server.paths == [("/file?10", f"camera:{server.server_port}")]


def test_each_redirection_is_checked(server, only_this_is_public):
    onward = address_of(server, "file?10")
    assert fetch(address_of(server, f"redirect?{onward}"), LIMITS).read() == b"a" * 10
    assert fetch(address_of(server, "redirect?/file?20"), LIMITS).read() == b"a" * 20
    server.paths.clear()
    inward = address_of(server, "file?10", "127.0.0.2")
    assert refusal(address_of(server, f"redirect?{inward}"))[:2] == (400, "private_address")
    assert len(server.paths) == 1
    for nowhere in ("file:///etc/hostname", "http://[", "http://a..b/"):
        assert refusal(address_of(server, f"redirect?{nowhere}"))[1] == "unreachable_url"
    circle = address_of(server, "redirect?/redirect?/redirect?/redirect?/redirect?/redirect?/redirect?/file?1")
    assert "at most 5 redirections" in refusal(circle)[2]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("file?1001", 413, "at most max_upload_bytes=1000"),
        ("large", 413, "at most max_upload_bytes=1000"),
        ("short?100", 400, "a file of the 500 bytes that its server states, got 100"),
        ("missing", 400, "a file, got status 404"),
        ("endless", 400, "within max_body_seconds=1"),
        ("silent", 400, "within max_body_seconds=1"),
    ],
)
def test_what_an_address_gives_has_limits(server, only_this_is_public, path, status, words):
    found, _, sentence = refusal(address_of(server, path))
    assert found == status and words in sentence


@pytest.mark.parametrize(
    "address",
    [
        "ftp://host/a",
        "http://",
        "http://a b/",
        "http://host:port/",
        "http://name:word@host/",
        "http://hôst/",
        "http://h/\n",
        "http://a..b/",
        f"http://{'a' * 64}.test/",
        "https://.a/",
    ],
)
def test_what_is_no_plain_address_is_refused(address):
    assert refusal(address)[:2] == (400, "unreachable_url")


def test_an_own_network_is_fetched_from_where_the_server_is_told_to(server):
    limits = ServingLimits(allow_private_addresses=True)
    assert fetch(address_of(server, "file?10"), limits).read() == b"a" * 10


@pytest.fixture
def certificate(tmp_path):
    file = tmp_path / "certificate.pem"
    file.write_text(CERTIFICATE)
    return str(file)


@pytest.fixture
def safe_server(server, certificate):
    """The same behind TLS, with a certificate that no authority has signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


def test_a_file_is_fetched_by_https_from_a_host_whose_certificate_is_trusted_and_of_its_name(
    safe_server, names, only_this_is_public, certificate, monkeypatch
):
    limits = ServingLimits(max_upload_bytes=1000, max_body_seconds=60.0)
    address = f"https://{SAFE_HOST}:{safe_server.server_port}/file?10"
    names[SAFE_HOST] = ["127.0.0.1"] * 2
    names["other.test"] = ["127.0.0.1"]
    found = refusal(address, limits)
    assert found[:2] == (400, "unreachable_url") and "SSLCertVerificationError of 'clips.test'" in found[2]
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    assert fetch(address, limits).read() == b"a" * 10
    assert safe_server.paths == [("/file?10", f"{SAFE_HOST}:{safe_server.server_port}")]
    found = refusal(address.replace(SAFE_HOST, "other.test"), limits)
    assert found[:2] == (400, "unreachable_url") and "SSLCertVerificationError of 'other.test'" in found[2]


@pytest.mark.parametrize("path", ["endless", "silent"])
def test_what_drips_over_https_ends_in_its_time(
    safe_server, names, only_this_is_public, certificate, monkeypatch, path
):
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    names[SAFE_HOST] = ["127.0.0.1"]
    begin = time.monotonic()
    found = refusal(f"https://{SAFE_HOST}:{safe_server.server_port}/{path}")
    assert "within max_body_seconds=1" in found[2]
    assert time.monotonic() - begin < 30, "it never ends by itself"


def test_a_fetch_that_nobody_waits_for_any_more_ends_its_connection(server, only_this_is_public):
    async def leave(path):
        fetching_it = asyncio.ensure_future(fetched(address_of(server, path), ServingLimits(max_body_seconds=600.0)))
        while not server.paths:
            await asyncio.sleep(0.01)
        fetching_it.cancel()
        await asyncio.wait_for(asyncio.wait({fetching_it}), 60)  # until its thread has ended

    asyncio.run(leave("silent"))


def test_a_connection_that_is_not_taken_ends_with_its_fetch(only_this_is_public):
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())  # behind it Linux answers nobody
        address = f"http://127.0.0.1:{full.getsockname()[1]}/file?1"
        assert "within max_body_seconds=1" in refusal(address)[2]


def test_the_look_up_of_a_name_takes_of_the_time_of_its_file(server, names, only_this_is_public, monkeypatch):
    names["camera"] = ["127.0.0.1"]
    clock = count(0.0, 1.5)  # seconds, which a look-up takes where the limit is one
    monkeypatch.setattr(fetching, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert "within max_body_seconds=1" in refusal(address_of(server, "file?10", "camera"))[2]


def test_a_name_that_is_looked_up_for_too_long_is_refused_in_time(monkeypatch):
    is_free = threading.Event()
    late = threading.Event()

    def look_up(*_, **__):
        if not is_free.wait(60):
            late.set()
        raise OSError("of the test")

    async def ask():
        fetcher = fetching.Fetcher(LIMITS)
        try:
            with pytest.raises(RequestError, match="within max_body_seconds=1"):
                await fetcher.fetch("http://slow.test/", LIMITS.max_upload_bytes)
        finally:
            is_free.set()
            await asyncio.to_thread(fetcher.close)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    asyncio.run(ask())
    assert not late.is_set()


@pytest.fixture
def hanging(monkeypatch):
    """Names that are looked up until the test ends; `hanging.begun` has those for which it has begun."""
    ended = threading.Event()
    resolve = socket.getaddrinfo
    begun = []

    def look_up(host, port, *arguments, **options):
        if host.endswith(".hangs"):
            begun.append(host)
            ended.wait(60)
            raise OSError("of the test")
        return resolve(host, port, *arguments, **options)

    look_up.begun = begun
    look_up.ended = ended
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield look_up
    ended.set()


async def begin_lookups(fetcher, hanging, names):
    """Ask for files behind names that hang; return once all of them are looked up."""
    asked = [asyncio.ensure_future(fetcher.fetch(f"http://{name}/", LIMITS.max_upload_bytes)) for name in names]
    while len(hanging.begun) < len(set(names)):
        await asyncio.sleep(0.01)
    return asked


def test_names_that_hang_hold_up_no_other_name_and_no_literal_address(server, names, only_this_is_public, hanging):
    names["camera"] = ["127.0.0.1"]

    async def ask():
        fetcher = fetching.Fetcher(ServingLimits(max_upload_bytes=1000, max_body_seconds=60.0))
        waiting = await begin_lookups(fetcher, hanging, [f"{number}.hangs" for number in range(MAX_LOOKUPS - 1)])
        for host in ("127.0.0.1", "camera"):
            with await fetcher.fetch(address_of(server, "file?10", host), LIMITS.max_upload_bytes) as file:
                assert file.read() == b"a" * 10
        assert not any(one.done() for one in waiting)
        hanging.ended.set()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert {(end.status, end.code) for end in ends} == {(400, "unreachable_url")}
        await asyncio.to_thread(fetcher.close)

    asyncio.run(ask())


def test_redirections_to_names_that_hang_hold_up_no_other_file(server, only_this_is_public, hanging):
    async def ask():
        fetcher = fetching.Fetcher(ServingLimits(max_upload_bytes=1000, max_body_seconds=60.0))
        names = [f"{number}.hangs" for number in range(fetching._THREADS)]
        addresses = [address_of(server, f"redirect?http://{name}/") for name in names]
        waiting = [asyncio.ensure_future(fetcher.fetch(address, LIMITS.max_upload_bytes)) for address in addresses]
        while len(hanging.begun) < len(names):
            await asyncio.sleep(0.01)
        with await fetcher.fetch(address_of(server, "file?10"), LIMITS.max_upload_bytes) as file:
            assert file.read() == b"a" * 10
        assert not any(one.done() for one in waiting)
        hanging.ended.set()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert {(end.status, end.code) for end in ends} == {(400, "unreachable_url")}
        await asyncio.to_thread(fetcher.close)

    asyncio.run(ask())


def test_a_name_beyond_all_that_are_looked_up_is_told_to_come_again(server, only_this_is_public, hanging, monkeypatch):
    async def ask():
        fetcher = fetching.Fetcher(LIMITS)
        late = await begin_lookups(fetcher, hanging, [f"{number}.hangs" for number in range(MAX_LOOKUPS)])
        await asyncio.gather(*late, return_exceptions=True)  # in vain, and their lookups run on
        with pytest.raises(RequestError) as refused:
            await fetcher.fetch("http://another.test/", LIMITS.max_upload_bytes)
        error = refused.value
        assert (error.status, error.code, error.headers) == (503, "resolver_busy", {"Retry-After": "5"})
        monkeypatch.setattr(LIMITS, "max_body_seconds", 60.0)  # a busy machine may be late with a file
        with await fetcher.fetch(address_of(server, "file?10"), LIMITS.max_upload_bytes) as file:
            assert file.read() == b"a" * 10
        hanging.ended.set()
        await asyncio.to_thread(fetcher.close)

    asyncio.run(ask())


def test_all_who_ask_for_a_name_share_its_lookup(hanging):
    async def ask():
        fetcher = fetching.Fetcher(LIMITS)
        waiting = await begin_lookups(fetcher, hanging, ["one.hangs"] * 10)
        hanging.ended.set()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert [end.code for end in ends] == ["unreachable_url"] * 10
        assert hanging.begun == ["one.hangs"]
        fetcher.close()

    asyncio.run(ask())


def test_of_the_addresses_of_a_host_the_next_is_tried_where_one_takes_no_connection(server, monkeypatch):
    resolve = socket.getaddrinfo
    known = ["127.0.0.2", "127.0.0.1"]  # of which nothing listens on the first

    def look_up(host, port, **options):
        return [found for one in known for found in resolve(one, port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(fetching, "is_public", lambda address: address in ("127.0.0.1", "127.0.0.2"))
    assert fetch(address_of(server, "file?10", "camera"), LIMITS).read() == b"a" * 10
    known.append("127.0.0.3")
    assert refusal(address_of(server, "file?10", "camera"))[:2] == (400, "private_address")
    assert len(server.paths) == 1
