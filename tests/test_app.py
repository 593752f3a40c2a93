"""What the live page does, without a page: clips, answers, attention, files, and what is said of mistakes."""

import csv
import json
import re
import socket
import threading
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from PIL import Image
from transformers import AutoProcessor, pipeline

from documented import ROOT
from hmba_hf import HMBAVLMProcessor, VideoStream
from hmba_hf.app import ask_tab
from hmba_hf.app import visits as visits_module
from hmba_hf.app.ask_tab import _said_of
from hmba_hf.app.asking import Asker, draw_large
from hmba_hf.app.clips import clip_seconds, read_frames
from hmba_hf.app.html import frames_html
from hmba_hf.app.limits import PageLimits
from hmba_hf.app.looking import patch_grid, read_attention, seen_picture
from hmba_hf.app.problems import in_words
from hmba_hf.app.records import write_records
from hmba_hf.app.visits import Visits
from hmba_hf.commands import app
from hmba_hf.commands.app import is_finished_demo, list_clips, open_page, worth_of
from hmba_hf.commands.demo import DISCLAIMER, TUNED, write_held_out_clips
from hmba_hf.data.clips import write_video
from hmba_hf.data.samples import RISK_QUESTION as QUESTION
from hmba_hf.families import load_model
from hmba_hf.visualization import draw_attention
from tiny_hmba_vlm import model_on
from tiny_models import lively_model
from tiny_processors import tiny_processor
from tiny_vlm_bases import noisy_picture, tiny_vlm

LIMITS = PageLimits(max_new_tokens=48)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return [str(path) for path in write_held_out_clips(tmp_path_factory.mktemp("clips")).values()]


@pytest.fixture(scope="module")
def asker():
    model = load_model(TUNED, dtype="float32").eval()
    return Asker(model, AutoProcessor.from_pretrained(TUNED), LIMITS)


@pytest.fixture(scope="module")
def asked(asker, clips):
    return asker.ask(clips[0], 2.0, f"  {QUESTION} ")


def test_an_answer_is_that_of_the_pipeline_at_that_moment(asker, asked, clips):
    pipe = pipeline("video-text-to-text", model=asker.model, processor=asker.processor, device="cpu")
    (expected,) = pipe(videos=clips[0], text=QUESTION, timestamp=2.0)
    assert (asked.answer.text, asked.answer.objects) == (expected["generated_text"], expected["objects"])
    assert asked.question == QUESTION and asked.frames.times == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert "[" in asked.answer.text and "[" not in asked.answer.words


def test_a_model_on_a_vision_language_model_is_asked_and_its_words_are_without_boxes_of_its_dialect(
    clips, monkeypatch
):
    vlm = tiny_vlm("qwen3_vl")
    asker = Asker(
        model_on(vlm), HMBAVLMProcessor(vlm.processor, boxes_dialect="thousand"), PageLimits(max_new_tokens=4)
    )
    asked = asker.ask(clips[0], 2.0, QUESTION)
    assert sum(asked.attention.shares.values()) == pytest.approx(1, abs=1e-3)
    boxes = '[{"bbox_2d": [100, 200, 300, 400], "label": "the yellow car"}]'
    found = {"generated_text": f"The yellow car. {boxes}", "objects": []}
    monkeypatch.setattr(asker._stream, "ask", lambda question, **options: found)
    assert asker.ask(clips[0], 2.0, QUESTION).answer.words.strip() == "The yellow car."


def test_the_comparison_reads_the_current_frame_alone(asker, asked, clips):
    pipe = pipeline("video-text-to-text", model=asker.model, processor=asker.processor, device="cpu")
    frame = np.asarray(read_frames(clips[0], 2.0, LIMITS).pictures[0])
    (expected,) = pipe(videos=frame[None], text=QUESTION)
    assert asked.alone.text == expected["generated_text"] != asked.answer.text


def test_boxes_are_drawn_where_the_answer_says(asked):
    (found,) = asked.answer.objects
    scale = asked.answer.picture.width / asked.frames.pictures[-1].width
    assert scale > 1, "a small frame is enlarged"
    box = {side: round(value * scale) for side, value in found["box"].items()}
    middle = (box["ymin"] + box["ymax"]) // 2
    for x in (box["xmin"], box["xmax"] - 1):
        assert asked.answer.picture.getpixel((x, middle)) == (255, 45, 135)


def attention_to(model, processor, pictures):
    stream = VideoStream(model, processor, num_frames=len(pictures))
    for number, picture in enumerate(pictures):
        stream.push(picture, number / stream.fps)
    return read_attention(stream, pictures[-1])


def test_a_question_shows_the_tower_each_frame_once_and_the_current_one_alone_once_more(asker, clips):
    seen = []
    hook = asker.model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(args[0] if args else kwargs["pixel_values"])), with_kwargs=True
    )
    asked = asker.ask(clips[0], 2.0, QUESTION)
    hook.remove()
    assert sum(seen) == len(asked.frames.pictures) + 1


def test_attention_is_over_all_contexts_and_changes_with_the_frames(asker, clips):
    frames = read_frames(clips[0], 2.0, LIMITS, 5)
    maps = attention_to(asker.model, asker.processor, frames.pictures).maps
    others = attention_to(asker.model, asker.processor, read_frames(clips[1], 1.0, LIMITS, 5).pictures).maps
    assert len(maps) == 6 and sum(weights.sum() for weights in maps.values()) == pytest.approx(1, abs=1e-3)
    assert {weights.shape for weights in maps.values()} == {(1, 1), (8, 8)}
    changes = [np.abs(weights - others[name]).max() for name, weights in maps.items()]
    assert min(changes) > 1e-5 and max(changes) > 1e-3


def test_attention_is_that_of_the_model_for_the_same_clip(asker, clips):
    frames = read_frames(clips[0], 2.0, LIMITS, 5)
    pixels = asker.processor.video_processor(clips[0], timestamp=2.0, return_tensors="pt")["pixel_values_videos"]
    expected = asker.model.get_video_features(pixels, output_attentions=True).adapter_attentions
    for name, weights in attention_to(asker.model, asker.processor, frames.pictures).maps.items():
        np.testing.assert_allclose(weights.ravel(), expected[name][0].mean((0, 1)).detach(), atol=1e-5)


def test_an_adapter_without_a_query_has_no_attention_to_show(tmp_path):
    pictures = [Image.new("RGB", (40, 20), shade) for shade in ("red", "blue")]
    assert attention_to(lively_model(fusion="add"), tiny_processor(), pictures) == ({}, "")
    with pytest.raises(ValueError, match="the attention must be to some context, got none"):
        draw_attention(pictures[0], {})


@pytest.fixture(scope="module", params=["qwen3_vl", "glm46v", "internvl", "gemma3", "mistral3"])
def on_a_base(request):
    """A model on a vision-language model that sees the frame as one whole picture, and its processor."""
    vlm = tiny_vlm(request.param)
    return model_on(vlm), HMBAVLMProcessor(vlm.processor)


def rows_of(on_a_base, pixels):
    model, processor = on_a_base
    with torch.no_grad():
        return torch.cat(model.get_frame_features(**processor.frame_inputs([Image.fromarray(pixels)])))


@pytest.mark.parametrize("shape", [(48, 64, 3), (64, 48, 3)])
def test_the_patches_of_a_base_lie_where_a_change_of_the_frame_changes_them_most(on_a_base, shape):
    grey = np.full(shape, 128, np.uint8)
    before = rows_of(on_a_base, grey)
    rows, columns = patch_grid(*on_a_base, Image.fromarray(grey), len(before))
    assert min(rows, columns) > 1
    tall, wide = shape[0] // rows, shape[1] // columns
    for place in range(len(before)):
        row, column = divmod(place, columns)
        pixels = grey.copy()
        pixels[row * tall : (row + 1) * tall, column * wide : (column + 1) * wide] = 255
        changes = (rows_of(on_a_base, pixels) - before).norm(dim=-1)
        assert int(changes.argmax()) == place


def test_attention_on_a_base_is_that_of_its_adapter_over_the_grid_of_the_frame(on_a_base):
    model, processor = on_a_base
    pictures = [noisy_picture((64, 48), shade) for shade in range(3)]
    features = torch.stack([rows_of(on_a_base, np.asarray(picture)) for picture in pictures])
    expected = model.adapt_frame_features(features[None]).adapter_attentions
    found = attention_to(model, processor, pictures)
    grid = patch_grid(model, processor, pictures[-1], features.shape[1])
    assert found.problem == "" and {weights.shape for weights in found.maps.values()} == {(1, 1), grid}
    for name, weights in found.maps.items():
        np.testing.assert_allclose(weights.ravel(), expected[name][0].mean((0, 1)).detach(), atol=1e-5)


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ("llava", "The base must see all of a frame of .48, 64., got .*, which crops it"),
        ("llava_onevision", "The base must resize a frame of .48, 64. as one picture, got pieces"),
        ("lfm2_vl", "The base must tell to which size it resizes a frame, .* got patches alone"),
    ],
)
def test_a_base_whose_patches_lie_anyhow_shows_shares_and_says_why_in_a_line(base, reason):
    vlm = tiny_vlm(base)
    found = attention_to(model_on(vlm), HMBAVLMProcessor(vlm.processor), [noisy_picture((64, 48), 0)] * 2)
    assert re.fullmatch(reason + ".*", found.problem) and "\n" not in found.problem
    assert {weights.shape for weights in found.maps.values()} == {(1, 1)}
    assert sum(found.shares.values()) == pytest.approx(1, abs=1e-3)
    assert len(re.findall("^- .*%$", _said_of(found), re.MULTILINE)) == len(found.maps)


def test_patches_that_fill_no_grid_are_refused(asker):
    with pytest.raises(ValueError, match="patches must fill a picture of .* as squares, got 17"):
        patch_grid(asker.model, asker.processor, Image.new("RGB", (8, 8)), 17)


def test_the_brightest_patch_is_where_most_attention_goes():
    weights = np.full((2, 2), 0.1)
    weights[1, 0] = 0.5
    picture = draw_attention(Image.new("RGB", (64, 64), "white"), {"a/stride_1": weights, "b/stride_1": weights * 0.2})
    colours = picture.getcolors(picture.width * picture.height)
    assert (255, 207, 51) in {colour for _, colour in colours}
    left, right = (picture.getpixel((12 + x, 12 + 44 + 165)) for x in (55, 165))
    assert left == (255, 207, 51) and right[0] < 200


def test_attention_lies_over_the_frame_as_the_tower_sees_it():
    seen = seen_picture(tiny_processor(), Image.new("RGB", (40, 20), "black"))
    assert seen.size == (40, 40) and seen.getpixel((20, 2)) == (255, 255, 255) and seen.getpixel((20, 20)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("path", "seconds", "question", "words"),
    [
        (None, 1.0, QUESTION, "A clip must be chosen or uploaded first, got none"),
        ("nosuch.mp4", 1.0, QUESTION, "The clip must be uploaded again, got one that is no longer kept"),
        ("broken.mp4", 1.0, QUESTION, "The clip cannot be read as a video: Invalid data"),
        ("clip", 99.0, QUESTION, "Timestamp 99.000 s lies outside the clip, which ends at 2.5 s"),
        ("clip", -1.0, QUESTION, "Timestamp must be a number of seconds, zero or more, got -1.0"),
        ("clip", 1.0, "  ", "A question must have words, got none"),
        ("clip", 1.0, "What is \ud800?", "A question must be whole characters, got a broken one"),
        ("clip", 1.0, "why" * 200, "A question must have at most 500 characters, got 600"),
    ],
)
def test_a_mistake_of_a_visitor_is_a_sentence_without_a_place(asker, clips, tmp_path, path, seconds, question, words):
    (tmp_path / "broken.mp4").write_bytes(b"no video at all " * 50)
    given = clips[0] if path == "clip" else path and str(tmp_path / path)
    with pytest.raises(ValueError) as error:
        asker.ask(given, seconds, question)
    assert in_words(error.value).startswith(words)
    assert str(tmp_path) not in in_words(error.value)


@pytest.mark.parametrize("size", [(64, 64), (36, 120), (120, 36)])
def test_a_clip_of_one_frame_of_any_shape_is_asked_about_in_any_script(asker, tmp_path, size):
    write_video(tmp_path / "one.mp4", [Image.new("RGB", size, "navy")])
    asked = asker.ask(str(tmp_path / "one.mp4"), 0.0, "どの物体が危険ですか? ما الخطر؟ 🚗")
    assert asked.frames.pictures[-1].size == size and set(asked.frames.times) == {0.0}
    assert asked.answer.picture.height * size[0] == pytest.approx(asked.answer.picture.width * size[1], abs=size[1])
    rows = list(
        csv.DictReader(write_records(tmp_path, [asked.record("one.mp4")])[1].open(newline="", encoding="utf-8"))
    )
    assert rows[0]["question"] == asked.question


@pytest.mark.parametrize("box", [(-50, -50, 20, 20), (30, 10, 400, 300), (90, 90, 99, 99), (-9, -9, -1, -1)])
def test_a_box_that_leaves_the_frame_is_drawn_as_far_as_it_is_inside(box):
    box = dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    frame = Image.new("RGB", (40, 20))
    picture = draw_large(frame, [{"label": "車", "box": box}])
    assert picture.size == (480, 240)


def test_a_mistake_of_the_program_is_not_put_into_words():
    with pytest.raises(ValueError, match="invalid literal") as error:
        int("one")
    with pytest.raises(ValueError, match="invalid literal"):
        in_words(error.value)


def test_a_clip_that_is_too_long_or_too_large_is_refused(clips):
    assert clip_seconds(clips[0], LIMITS) == pytest.approx(2.5)
    with pytest.raises(ValueError, match="a clip must have at most 2 seconds, got 2.5"):
        clip_seconds(clips[0], PageLimits(max_clip_seconds=2))
    with pytest.raises(ValueError, match="a clip must have at most 100 bytes, got"):
        clip_seconds(clips[0], PageLimits(max_upload_bytes=100))
    with pytest.raises(ValueError, match="max_streams must be above zero, got 0"):
        PageLimits(max_streams=0)


def test_answers_are_downloaded_as_json_and_as_csv_that_no_spreadsheet_runs(asked, tmp_path):
    record = asked.record("=clip.mp4")
    as_json, as_csv = write_records(tmp_path, [record, record])
    assert json.loads(as_json.read_text()) == [record, record]
    rows = list(csv.DictReader(as_csv.open(newline="")))
    assert len(rows) == 2 and rows[0]["answer"] == asked.answer.text and rows[0]["clip"] == "'=clip.mp4"
    assert json.loads(rows[0]["objects"]) == asked.answer.objects
    with pytest.raises(ValueError, match="there must be answers to download, got none"):
        write_records(tmp_path, [])


def test_the_files_of_a_visit_are_its_own_and_end_with_it():
    visits = Visits()
    folder = visits.open("../../etc").folder
    (folder / "a").write_text("a")
    other = visits.open("b").folder
    assert folder.parent == other.parent and folder != other
    visits.end("../../etc")
    visits.end("one that has never begun")
    assert not folder.exists() and other == visits.open("b").folder and other.exists()


def test_a_visit_ends_behind_what_is_being_written():
    visits = Visits()
    visit = visits.open("a")
    ending = threading.Thread(target=visits.end, args=("a",))
    with visit.files() as folder:
        ending.start()
        (folder / "a").write_text("a")
    ending.join(60)
    assert not visit.folder.exists()
    with visit.files() as folder:
        assert folder is None


def test_a_visit_that_nobody_ends_is_over_after_an_hour_of_rest(monkeypatch):
    now = 0.0
    monkeypatch.setattr(visits_module.time, "monotonic", lambda: now)
    visits = Visits()
    resting, used = visits.open("a"), visits.open("b")
    now = 3000.0
    with used.files():
        pass
    now = 6000.0
    visits.open("c")
    assert (resting.is_over, resting.folder.exists()) == (True, False)
    assert (used.is_over, used.folder.exists()) == (False, True)


@pytest.mark.parametrize("step", ["ask", "draw_attention"])
def test_an_answer_amid_which_the_browser_is_closed_leaves_no_file(step, asker, clips, monkeypatch):
    monkeypatch.setattr(ask_tab, "gr", MagicMock())
    visits = Visits()
    ask_tab._let_ask(MagicMock(), MagicMock(), asker, visits)
    ask = ask_tab.gr.on.call_args.args[1]
    visit = MagicMock(session_hash="a")
    outcome = ask(clips[0], 2.0, QUESTION, [], visit)
    folder = visits.open("a").folder
    assert outcome[1] is not None and len(list(folder.iterdir())) == 2
    work = getattr(asker, step)

    def work_and_leave(*given):
        found = work(*given)
        visits.end("a")
        return found

    monkeypatch.setattr(asker, step, work_and_leave)
    assert ask(clips[0], 2.0, QUESTION, [], visit)[1] is None
    assert not list(folder.parent.iterdir())


def test_what_is_read_is_shown_with_its_times():
    html = frames_html([Image.new("RGB", (40, 20))] * 2, [0.5, 1.0])
    assert html.count("<img alt=") == 2 and "<figcaption>0.50 s" in html and "<figcaption>1.00 s" in html


def test_the_page_says_what_the_answers_of_the_drawn_worlds_models_are_worth(tmp_path):
    assert worth_of(str(TUNED)) == DISCLAIMER != worth_of("org/model")
    (tmp_path / "demo.json").write_text("{}")
    assert worth_of(str(tmp_path)) == DISCLAIMER


def test_a_demo_that_was_stopped_leaves_no_model_to_open(tmp_path):
    assert not is_finished_demo(tmp_path)
    for is_done in (False, True):
        (tmp_path / "demo.json").write_text(json.dumps({"recipe": {}, "is_done": is_done}))
        assert is_finished_demo(tmp_path) is is_done


def test_clips_to_choose_from_are_the_videos_of_a_folder(tmp_path):
    for name in ("b.mp4", "a.MOV", "notes.txt"):
        (tmp_path / name).touch()
    assert list(list_clips(tmp_path)) == ["a.MOV", "b.mp4"]
    with pytest.raises(ValueError, match="clips must be a folder of videos .* got none in"):
        list_clips(tmp_path / "..")


def test_a_model_that_answers_no_questions_is_refused(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"model_type": "videomamba", "architectures": []}')
    with pytest.raises(ValueError, match="the model must answer questions about videos, got one of"):
        open_page(str(tmp_path), None, tmp_path, LIMITS)


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def test_the_command_names_its_address_only_once_the_page_answers_there(port, monkeypatch, caplog):
    said = []
    page = MagicMock()
    page.block_thread.side_effect = lambda: said.append(caplog.text)
    monkeypatch.setattr(app, "open_page", lambda *_, **options: (page, []))
    monkeypatch.setattr(app, "launch_page", lambda *_: said.append(caplog.text))
    with caplog.at_level("INFO"):
        app.main(["--port", str(port)])
    before, after = said
    assert "http://" not in before and f"the page is at http://127.0.0.1:{port}\n" in after


def test_a_page_whose_port_is_taken_says_so_before_it_loads_a_model(port, monkeypatch):
    monkeypatch.setattr(app, "open_page", MagicMock(side_effect=AssertionError))
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(ValueError, match=f"port must be free on 127.0.0.1, got {port}: Address already in use"),
    ):
        app.main(["--port", str(port)])


def test_the_page_of_a_quantised_model_answers_by_its_fewer_bits(stored_model, tmp_path, monkeypatch):
    monkeypatch.setattr("hmba_hf.commands.app.require_gradio", lambda: None)
    monkeypatch.setattr("hmba_hf.commands.app.build_page", lambda asker, subject: asker)
    (tmp_path / "a.mp4").touch()
    for quantization in (None, "bnb-4bit"):
        asker, _ = open_page(str(stored_model), tmp_path, tmp_path, LIMITS, quantization=quantization)
        assert bool(getattr(asker.model, "is_quantized", False)) is (quantization is not None)


def test_the_space_has_the_gradio_that_was_measured_and_installs_the_extra():
    space = ROOT / "examples" / "space"
    header = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert header["sdk"] == "gradio" and (space / header["app_file"]).is_file()
    assert f'"gradio=={header["sdk_version"]}"' in (ROOT / "tests" / "app" / "measured.py").read_text()
    assert len(header["short_description"]) <= 60, "the Hub refuses longer ones"
    (wanted,) = map(Requirement, (space / "requirements.txt").read_text().split("\n")[:1])
    assert wanted.name == "hmba-hf" and wanted.extras == {"app", "cpu"}
