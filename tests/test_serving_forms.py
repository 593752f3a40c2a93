"""Whatever form a client sends as an upload, it gets the file or an error of its own, and nothing else is kept."""

import threading
import tracemalloc

import openai
import pytest

from hmba_hf.serving import bodies
from hmba_hf.serving.errors import RequestError
from hmba_hf.serving.forms import FileForm
from test_serving_logs import running_with_log
from test_serving_refusals import ask, send, wait_until
from tiny_server import client_of, running

KIND = "multipart/form-data; boundary=b"
END = b"--b--\r\n"


def part(head, data=b"x"):
    return b"--b\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + data + b"\r\n"


FILE = part(b'name="file"; filename="drive.mp4"', b"a\r\nfile")
ANCHOR, SECONDS = b'name="expires_after[anchor]"', b'name="expires_after[seconds]"'
PURPOSE = part(b'name="purpose"', b"user_data")
NESTED = b'--c\r\nContent-Disposition: file; filename="a"\r\n\r\na\r\n--c--'


def expiry(anchor, seconds):
    return part(ANCHOR, anchor) + part(SECONDS, seconds)


def read(body, kind=KIND, size=7):
    """Read a form that comes in pieces; return the name of the file and what is in it."""
    form = FileForm(kind)
    try:
        for start in range(0, len(body), size):
            form.write(body[start : start + size])
        file, name, length = form.file()
        data = file.read()
        assert len(data) == length
        return name, data
    finally:
        form.close()


@pytest.mark.parametrize("size", [1, 7, 2**16])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (PURPOSE + FILE + END, KIND),
        (FILE + expiry(b"created_at", b"3600") + PURPOSE + END, KIND),
        (FILE + PURPOSE + END[:-2], KIND),
        (b"\r\n" + FILE + END + b"more", KIND),
        (FILE + END, "Multipart/Form-Data; charset=utf-16; boundary=b"),
    ],
)
def test_the_file_of_a_form_is_read_whatever_else_is_in_it(body, kind, size):
    assert read(body, kind, size) == ("drive.mp4", b"a\r\nfile")


def test_the_name_of_a_file_is_a_text_that_a_response_can_hold():
    for charset in ("utf-8", "utf-7", "unicode_escape", "undefined", "punycode", "no-such"):
        for name in (b"\xff\xfe", b"+2D0-", rb"\ud800", "ä".encode()):
            body = part(b'name="file"; filename="' + name + b'"') + END
            assert read(body, f"{KIND}; charset={charset}")[0].encode()
    assert read(part(b'name="file"; filename=""') + END)[0] == "video"


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (FILE + END, "", "must be of type multipart/form-data with a boundary, got ''"),
        (FILE + END, "text/plain; boundary=b", "must be of type multipart/form-data"),
        (FILE + END, "multipart/form-data", "with a boundary, got 'multipart/form-data'"),
        (FILE + END, "multipart/form-data; boundary=", "with a boundary"),
        (FILE + END, "multipart/form-data; boundary=" + "b" * 60_000, "with a boundary"),
        (FILE + END, "multipart/form-data; boundary=c", "must be a form with one file, got"),
        (FILE + END, "multipart/form-data; boundary=\xff", "must be a form with one file, got"),
        (FILE + END, "multipart/form-data; boundary*" + "9" * 5000 + "=b", "an upload must"),
        (b"", KIND, "must have a part `file`, got none"),
        (END, KIND, "must have a part `file`, got none|must be a form with one file"),
        (PURPOSE + END, KIND, "must have a part `file`, got none"),
        (FILE[:20], KIND, "must have a part `file`, got none"),
        (FILE, KIND, "must end with its boundary, got a part of it"),
        (FILE[:-4], KIND, "must end with its boundary, got a part of it"),
        (b"rubbish" + FILE + END, KIND, "must be a form with one file, got"),
        (b"--b\r\n\r\nx\r\n" + END, KIND, "must have a name in the Content-Disposition"),
        (part(b'filename="a"') + END, KIND, "must have a name in the Content-Disposition"),
        (part(b'name="file"') + END, KIND, "must have a file with a name as its part `file`, got a text"),
        (part(b'name="file"\r\nContent-Type: multipart/mixed; boundary=c', NESTED) + END, KIND, "got a text"),
        (part(b'name="other"; filename="a"') + END, KIND, "must have one file, .*, got another one as 'other'"),
        (FILE + FILE + END, KIND, "must have one file, .*, got another one as 'file'"),
        (part(b'name="' + b"n" * 9000 + b'"') + END, KIND, "headers in a part|form with one file"),
        (part(b'name="file"; filename="' + b"n" * 256 + b'"') + END, KIND, "at most 255 letters, got 256"),
        (part(b'name="a"; x*' + b"9" * 5000 + b"=b") + END, KIND, "an upload must"),
        (FILE + expiry(b"last_used", b"3600") + END, KIND, "must have .*anchor. 'created_at' .*, got 'last_used'"),
        (FILE + part(SECONDS, b"3600") + END, KIND, "must have .*anchor. 'created_at' .*, got ''"),
        (FILE + part(ANCHOR, b"created_at") + END, KIND, "must have .*seconds. of 3600 to 2592000 .*, got ''"),
        (expiry(b"created_at", b"3599") + FILE + END, KIND, "of 3600 to 2592000 .*, got '3599'"),
        (expiry(b"created_at", b"2592001") + FILE + END, KIND, "of 3600 to 2592000 .*, got '2592001'"),
        (expiry(b"created_at", b"-3600") + FILE + END, KIND, "of 3600 to 2592000 .*, got '-3600'"),
        (expiry(b"created_at", b"9" * 33) + FILE + END, KIND, "at most 32 bytes in a part of its expiry, got more"),
        (expiry(b"created_at", b"3600") * 2 + FILE + END, KIND, "must have one part 'expires_after.anchor.'"),
    ],
)
def test_a_form_that_is_not_as_it_must_be_is_told_so_in_a_sentence(body, kind, words):
    with pytest.raises(RequestError, match=words) as refused:
        read(body, kind)
    assert (refused.value.status, refused.value.code) == (400, "invalid_form")
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "body",
    [
        b"".join(part(b'name="field%d"' % number) for number in range(5000)),
        b"".join(part(b'name="file"; filename="%d"' % number) for number in range(5000)),
        part(b'name="' + b"n" * 1_000_000 + b'"') + END,
        part(b'name="a"\r\nX: ' + b"n" * 1_000_000) + END,
        part(b'name="a"\r\n' + b"n" * 1_000_000 + b": x") + END,
        part(b'name="a"' + b"\r\nX: 1" * 100_000) + END,
        part(b'name="a"', b"x" * 1_000_000) + FILE + END,
        part(SECONDS, b"9" * 1_000_000) + FILE,
    ],
)
def test_forms_of_many_or_large_parts_take_no_memory(body):
    tracemalloc.start()
    try:
        read(body, size=2**14)
    except RequestError:
        assert body[-len(FILE + END) :] != FILE + END
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 200_000


def test_a_form_is_parsed_beside_the_requests_of_others(monkeypatch):
    is_free = threading.Event()

    class Slow(FileForm):
        def write(self, data):
            assert is_free.wait(60)
            super().write(data)

    monkeypatch.setattr(bodies, "FileForm", Slow)
    with running() as service:
        outcomes = []
        headers = {"Content-Type": KIND}
        sending = threading.Thread(target=lambda: outcomes.append(send(service, "POST", "/v1/files", FILE, headers)))
        sending.start()
        wait_until(lambda: service._open == 1)
        assert ask(client_of(service)).choices
        is_free.set()
        sending.join()
    assert outcomes == [(400, "invalid_form")]


def test_forms_that_cannot_be_read_fill_no_log(monkeypatch):
    with running_with_log("python_multipart.multipart", monkeypatch) as (service, lines):
        for _ in range(5):
            assert send(service, "POST", "/v1/files", b"rubbish", {"Content-Type": KIND}) == (400, "invalid_form")
        assert len(lines) < 2


def test_uploads_are_so_many_however_small():
    with running(max_stored_files=2) as service:
        client = client_of(service)
        for _ in range(2):
            client.files.create(file=("a", b""), purpose="user_data")
        with pytest.raises(openai.RateLimitError, match="at most max_stored_files=2 together, got 3") as refused:
            client.files.create(file=("a", b""), purpose="user_data")
        assert refused.value.code == "uploads_full"


def test_an_expiry_is_as_openai_s_client_sends_it_and_no_file_is_kept_for_more_than_an_hour():
    def upload(seconds, anchor="created_at"):
        expiry = {"anchor": anchor, "seconds": seconds}
        return client.files.create(file=("a", b""), purpose="user_data", expires_after=expiry)

    with running() as service:
        client = client_of(service)
        for seconds in (3600, 2_592_000):
            uploaded = upload(seconds)
            assert uploaded.expires_at == uploaded.created_at + 3600
        for wrong in ({"seconds": 60}, {"seconds": 2_592_001}, {"seconds": 3600, "anchor": "last_active_at"}):
            with pytest.raises(openai.BadRequestError, match="expires_after") as refused:
                upload(**wrong)
            assert refused.value.code == "invalid_form"
