"""The live page in headless Chromium: what a visitor does, and what is seen of it.

`make test-app` installs Gradio and a driver of browsers, and runs this. Nothing else does.
"""

import asyncio
import io
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor

from hmba_hf.app.asking import Asker
from hmba_hf.app.limits import PageLimits
from hmba_hf.app.page import Subject, build_page, launch_page
from hmba_hf.commands.demo import DISCLAIMER, TUNED, write_held_out_clips
from hmba_hf.data.micro_world.parquet import write_video
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.samples import RISK_QUESTION
from hmba_hf.evaluation.results import package_versions
from hmba_hf.families import load_model
from hmba_hf.models.decoding_video import video_duration

BROWSER, RESULTS = (os.environ.get(name) for name in ("HMBA_TEST_BROWSER", "HMBA_APP_RESULTS"))
LIMITS = PageLimits(max_upload_bytes=2**20, max_new_tokens=48)
WIDTHS = (1280, 390)
PASSWORD = "a password of the test"
PINK = (255, 45, 135)  # of the first box

NOTE_WHAT_IS_ASKED_FOR = """{
  window.asked = [];
  const {mediaDevices: {__proto__: devices}} = navigator;
  for (const [name, what] of [["getUserMedia", "camera"], ["getDisplayMedia", "screen"]]) {
    const own = devices[name];
    devices[name] = function (...wanted) { window.asked.push(what); return own.apply(this, wanted); };
  }
}"""  # of the browser, before the page's own scripts

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="`make test-app` installs what this needs and runs it"),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module")
def measured(request):
    """What the tests measure, by name; written as a table at the end."""
    rows = {}
    yield rows
    if RESULTS is None or not rows:
        return
    rows["tests, and those of them that failed"] = f"{request.session.testscollected}, {request.session.testsfailed}"
    packages = package_versions("torch", "transformers", "gradio", "pillow", "playwright")
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    lines = [
        *("`make test-app`", ""),
        *("The page of the tiny model of the package, in headless Chromium on the machine that serves it.", ""),
        *(f"{platform.machine()}, {platform.system()}, {versions}", ""),
        *("| what | measured |", "|---|---|"),
        *(f"| {name} | {value} |" for name, value in rows.items()),
    ]
    Path(RESULTS).write_text("\n".join([*lines, ""]), encoding="utf-8")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_held_out_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def page(clips):
    """A page of the model that comes with the package."""
    asker = Asker(load_model(TUNED, dtype="float32").eval(), AutoProcessor.from_pretrained(TUNED), LIMITS)
    return build_page(asker, Subject("micro_tuned", DISCLAIMER, RISK_QUESTION, clips))


@pytest.fixture(scope="module")
def address(page, clips):
    """The address at which it listens."""
    yield launch_page(page, [*clips.values()], "127.0.0.1", None, None, LIMITS.max_upload_bytes)
    page.close()


@pytest.fixture(scope="module")
def locked(clips):
    """The address of a page that wants a password."""
    asker = Asker(load_model(TUNED, dtype="float32").eval(), AutoProcessor.from_pretrained(TUNED), LIMITS)
    page = build_page(asker, Subject("micro_tuned", DISCLAIMER, RISK_QUESTION, clips))
    yield launch_page(page, [*clips.values()], "127.0.0.1", None, PASSWORD, LIMITS.max_upload_bytes)
    page.close()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        chromium = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", *camera])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, address):
    """Open the page at a width: `visit(390)`; what it asks of other machines fails the test."""
    strangers = []
    opened = []

    def open_page(width=1280):
        page = browser.new_page(viewport={"width": width, "height": 900}, accept_downloads=True)
        page.set_default_timeout(300_000)
        page.on("request", lambda request: strangers.append(request.url))
        page.add_init_script(NOTE_WHAT_IS_ASKED_FOR)
        opened.append(page)
        page.goto(address)
        page.wait_for_selector("#ask")
        page.wait_for_selector("#preview img")
        return page

    yield open_page
    for page in opened:
        page.close()
    assert not [url for url in strangers if not url.startswith((address, "data:", "blob:"))]


def ask(page):
    """Press the button and wait for another answer; return its paragraph."""
    text = "(document.querySelector('#answer p') || {}).innerText"
    before = page.evaluate(text)
    page.click("#ask")
    page.wait_for_function(f"before => {text} && {text} != before", arg=before)
    page.wait_for_selector("#answered img")
    return page.inner_text("#answer p")


def picture_of(page, place):
    """Return the pixels of a shown picture."""
    source = page.get_attribute(f"{place} img", "src")
    with urllib.request.urlopen(source) as file:
        return Image.open(io.BytesIO(file.read())).convert("RGB")


def clear(page):
    """Take the clip away."""
    page.click("#clip button[aria-label='Clear'], #clip button[title='Clear']")
    page.wait_for_selector("#preview img", state="detached")


def upload(page, path):
    """Put another clip in the place of the one that is there, and wait until the page has read it."""
    clear(page)
    page.set_input_files("#clip input[type=file]", path)
    page.wait_for_selector("#preview img")


def choose_moment(page, seconds):
    field = page.locator("#moment input[type=number]")
    field.fill(str(seconds))
    field.press("Enter")


def records_of(page, tmp_path):
    with page.expect_download() as download:
        page.click("#json")
    download.value.save_as(tmp_path / "answers.json")
    return json.loads((tmp_path / "answers.json").read_text())


def shoot(page, name):
    """Keep a picture of the page at each width where somebody wants to look at it."""
    folder = os.environ.get("HMBA_APP_SCREENSHOTS")
    if folder:
        before = page.viewport_size
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(1000)
            page.screenshot(path=Path(folder) / f"{name}-{width}.png", full_page=True)
        page.set_viewport_size(before)


def test_a_page_opens_with_a_clip_and_says_what_answers_are_worth(visit):
    page = visit()
    assert DISCLAIMER in page.inner_text("body")
    assert page.input_value("#moment input[type=number]") == "2.4"


def test_boxes_are_drawn_where_the_answer_says(visit, tmp_path):
    page = visit()
    text = ask(page)
    (record,) = records_of(page, tmp_path)
    (found,) = record["objects"]
    assert f"At {record['timestamp']:.2f} s" in text and found["label"] in text
    pixels = np.asarray(picture_of(page, "#answered"))
    scale = pixels.shape[1] / 256  # the clip's frames have 256 pixels a side
    box = {side: scale * value for side, value in found["box"].items()}
    middle = round((box["ymin"] + box["ymax"]) / 2)  # the label is above
    rows, columns = np.nonzero((pixels[middle:] == PINK).all(-1))
    drawn = (columns.min(), columns.max() + 1, middle + rows.max() + 1)
    assert drawn == pytest.approx((box["xmin"], box["xmax"], box["ymax"]), abs=2)


def test_an_uploaded_clip_is_asked_about_and_the_heat_map_changes_with_the_frame(visit, clips, tmp_path):
    page = visit()
    ask(page)
    before = picture_of(page, "#attention")
    shutil.copy([*clips.values()][2], tmp_path / "my drive.mp4")
    upload(page, tmp_path / "my drive.mp4")
    text = ask(page)
    (_, record) = records_of(page, tmp_path)
    assert record["clip"].endswith(".mp4") and record["clip"].startswith("my")
    assert re.search(r"cyclist|car|pedestrian", text)
    after = picture_of(page, "#attention")
    assert after.size == before.size and np.abs(np.asarray(after, float) - np.asarray(before, float)).max() > 20
    choose_moment(page, 1)
    assert "At 1.00 s" in ask(page)
    assert picture_of(page, "#attention").tobytes() != after.tobytes()


def test_all_is_reached_and_done_by_the_keyboard(visit):
    page = visit()
    page.focus("#moment input[type=range]")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('#moment input[type=number]').value == '2.35'")
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "TEXTAREA":
            break
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id || document.activeElement.innerText") in ("ask", "Ask")
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer:has-text('At')")


def test_mistakes_are_sentences_in_the_page(visit, tmp_path):
    page = visit()
    page.fill("#question textarea", " ")
    page.click("#ask")
    page.wait_for_selector("#problem:has-text('A question must have words, got none')")
    page.fill("#question textarea", "What moves?")
    clear(page)
    page.click("#ask")
    page.wait_for_selector("#problem:has-text('A clip must be chosen or uploaded first, got none')")
    (tmp_path / "broken.mp4").write_bytes(b"no video at all " * 50)
    page.set_input_files("#clip input[type=file]", tmp_path / "broken.mp4")
    page.wait_for_selector("#problem:has-text('The clip cannot be read as a video')")
    assert "Traceback" not in page.inner_text("body") and str(tmp_path) not in page.inner_text("body")


def test_a_moment_outside_of_the_clip_is_a_sentence(visit, clips):
    page = visit()
    page.evaluate("document.querySelector('#moment input[type=number]').max = 99")
    choose_moment(page, 99)
    page.click("#ask")
    page.wait_for_selector("#problem:has-text('lies outside the clip'), #answer:has-text('At 2.4')")


def test_an_upload_beyond_the_limit_is_refused_in_words(visit, tmp_path):
    page = visit()
    (tmp_path / "large.mp4").write_bytes(bytes(2**21))
    clear(page)
    page.set_input_files("#clip input[type=file]", tmp_path / "large.mp4")
    page.wait_for_selector("text=/exceeds|too large|maximum/i")


@pytest.mark.parametrize("place", ["clip", "camera"])
@pytest.mark.parametrize("path", ["/etc/hostname", "http://127.0.0.1:9/a.mp4", "https://example.org/a.mp4"])
def test_a_browser_names_no_path_and_no_address(page, address, place, path):
    from gradio.context import LocalContext
    from gradio.processing_utils import async_move_files_to_cache

    async def move():
        LocalContext.blocks.set(page)  # as Gradio does for a request
        await async_move_files_to_cache(file, component, check_in_upload_folder=True)

    (component,) = [block for block in page.blocks.values() if getattr(block, "elem_id", None) == place]
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(Exception, match="a file must be uploaded|not uploaded by a user"):
        with ThreadPoolExecutor(1) as thread:  # the driver of the browser has a loop in this one
            thread.submit(lambda: asyncio.run(move())).result()


def test_a_path_of_a_client_is_not_sent(address, tmp_path):
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    for url in (f"gradio_api/file={tmp_path}/secret.mp4", "gradio_api/file=/etc/hostname", "gradio_api/file=../x"):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(address + url)
        assert refusal.value.code in (403, 404)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_off_at_a_phones_width(visit, width):
    page = visit(width)
    ask(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.wait_for_function("document.querySelector('#clip video').readyState >= 2")
    shoot(page, "ask")


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    """A drawn drive of 75 seconds, small."""
    world = MicroWorld(MicroWorldConfig(frame_size=64), "test", 15)
    path = tmp_path_factory.mktemp("drive") / "drive.mp4"
    frames = [frame for sample in world[:] for frame in sample.frames or []]
    write_video(path, frames, len(frames) / 75)
    return path


def test_a_file_runs_for_a_minute_with_answers_as_subtitles(visit, drive, tmp_path, measured):
    page = visit()
    upload(page, drive)
    page.click("button[role=tab]:has-text('Stream')")
    page.click("#start")
    page.wait_for_selector("#screen figcaption:not(:empty)")
    for seconds in (5, 20, 40, 60):  # of the drive, however fast the machine is
        passed = f"parseFloat(document.querySelector('#status').innerText) >= {seconds}"
        page.wait_for_function(passed, timeout=600_000)
        assert page.inner_text("#screen figcaption")
        status = page.inner_text("#status")
        assert re.search(r"[\d.]+ frames per second", status) and "MiB of memory" in status
        measured[f"status after {seconds} s of a drive"] = status
    shoot(page, "stream")
    page.wait_for_selector("#annotated a, #annotated:not([disabled])")
    with page.expect_download() as download:
        page.click("#annotated")
    download.value.save_as(tmp_path / "annotated.mp4")
    assert video_duration(tmp_path / "annotated.mp4") > 55


@pytest.mark.parametrize(
    ("source", "place", "asked"), [("A camera", "#camera", "camera"), ("A screen", "#shared", "screen")]
)
def test_a_camera_and_a_screen_are_watched_until_they_are_stopped(visit, tmp_path, source, place, asked):
    page = visit(390)
    page.click("button[role=tab]:has-text('Stream')")
    page.click(f"label:has-text('{source}')")
    page.click(f"{place} [title='grant webcam access'] button")
    page.click(f"{place} .button-wrap button:has-text('Record')")
    page.wait_for_selector("#screen figcaption:not(:empty)")
    page.wait_for_timeout(4000)
    shoot(page, asked)
    page.click("#stop")
    page.wait_for_selector("#stream-json a, #stream-json:not([disabled])")
    assert page.locator(f"{place} [title='stop recording']").count() == 0
    status = page.inner_text("#status")
    page.wait_for_timeout(3000)
    assert page.inner_text("#status") == status, "no other drive has begun"
    with page.expect_download() as download:
        page.click("#stream-json")
    download.value.save_as(tmp_path / "answers.json")
    assert len(json.loads((tmp_path / "answers.json").read_text())) >= 2
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("window.asked") == [asked]


def test_a_drive_that_cannot_be_read_is_a_sentence(visit, tmp_path):
    page = visit()
    clear(page)
    page.click("button[role=tab]:has-text('Stream')")
    page.click("#start")
    page.wait_for_selector("#stream-problem:has-text('A clip must be chosen or uploaded first, got none')")


def test_a_page_with_a_password_opens_to_nobody_else(browser, locked):
    for path in ("config", "gradio_api/info"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(locked + path)
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.set_default_timeout(300_000)
    page.goto(locked)
    for password in ("another password", PASSWORD):
        page.wait_for_selector("input[type=password]")
        assert page.locator("#ask").count() == 0
        page.fill("input[type=text], textarea", "hmba")
        page.fill("input[type=password]", password)
        page.keyboard.press("Enter")
        if password != PASSWORD:
            page.wait_for_selector("text=/incorrect/i")
            shoot(page, "login")
    page.wait_for_selector("#preview img")
    assert "At 2.40 s" in ask(page)
    page.close()


def test_two_visits_and_a_reload_amid_an_answer_disturb_nobody(visit, tmp_path):
    first, second = visit(), visit()
    second.click("#ask")
    second.reload()
    second.wait_for_selector("#preview img")
    ask(first)
    assert second.inner_text("#answer p") == "Nothing was asked yet."
    second.fill("#question textarea", "どの物体が危険ですか?")
    ask(second)
    assert [len(records_of(page, tmp_path)) for page in (first, second)] == [1, 1]


def test_the_command_opens_its_page_on_this_machine_alone(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "hmba_hf", "app", "--port", str(port)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path) as process:
        printed = ""
        while "the page is at" not in printed:
            assert (line := process.stdout.readline()), printed
            printed += line
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/config") as opened:  # it answers at once
            shown = opened.read().decode()
        process.send_signal(signal.SIGINT)
        printed += process.communicate(timeout=60)[0]
    assert "micro_tuned" in shown and DISCLAIMER in shown
    assert f"the page is at http://127.0.0.1:{port}\n" in printed and "Traceback" not in printed
