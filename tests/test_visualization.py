import re
import sys

import numpy as np
import pytest
from PIL import Image

from hmba_hf.installation import install_command
from hmba_hf.visualization import draw_answer, draw_boxes, plot_bars, plot_curves, plot_panels, write_report

GREY = Image.new("RGB", (60, 40), (90, 90, 90))
OBJECT = {"label": "", "box": {"xmin": 10, "ymin": 5, "xmax": 30, "ymax": 25}}


def changed(before, after):
    return np.abs(np.asarray(before).astype(int) - np.asarray(after)).sum(-1) > 0


def test_a_box_is_outlined_from_its_first_to_its_last_pixel_on_a_copy():
    drawn = changed(GREY, draw_boxes(GREY, [OBJECT]))
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (5, 24, 10, 29)
    assert not drawn[10:20, 15:25].any()
    assert GREY.getcolors() == [(2400, (90, 90, 90))]


def test_scale_enlarges_picture_and_box_alike():
    large = draw_boxes(GREY, [OBJECT], scale=3)
    assert large.size == (180, 120)
    columns = np.flatnonzero(changed(GREY.resize((180, 120)), large).any(0))
    assert (columns[0], columns[-1]) == (30, 89)


@pytest.mark.parametrize("corner", [(0, 0), (190, 145)])
def test_a_label_stays_inside_the_picture(corner):
    image = Image.new("RGB", (200, 150), (90, 90, 90))
    box = {"xmin": corner[0], "ymin": corner[1], "xmax": corner[0] + 10, "ymax": corner[1] + 5}
    with_label = draw_boxes(image, [{"label": "A van", "box": box}])
    without = draw_boxes(image, [{"label": "", "box": box}])
    rows, columns = np.nonzero(changed(with_label, without))
    assert columns.max() - columns.min() > 20 and rows.max() - rows.min() > 8


def test_objects_get_colours_of_their_own():
    boxes = [OBJECT["box"] | {"xmin": left, "xmax": left + 5} for left in (0, 20, 40)]
    assert len(draw_boxes(GREY, [{"label": "", "box": box} for box in boxes]).getcolors()) == 4


@pytest.mark.parametrize(("number", "size"), [(1, (64, 64)), (2, (64, 64)), (5, (640, 360)), (8, (90, 160))])
def test_an_answer_is_shown_with_its_clip_and_texts(number, size):
    frames = [Image.new("RGB", size, (50 + 20 * shade, 0, 0)) for shade in range(number)]
    times = [0.5 * step for step in range(number)]
    page = draw_answer(frames, times, "Which?", "A van stops.", [OBJECT], width=480)
    assert page.width == 480
    reds = [value for _, value in page.getcolors(1 << 20) if value[0] >= 50 and value[1:] == (0, 0)]
    assert sorted(reds) == [(50 + 20 * shade, 0, 0) for shade in range(number)]
    current = np.argwhere((np.asarray(page) == frames[-1].getpixel((0, 0))).all(-1))
    assert np.ptp(current, axis=0).max() > 250, "the current frame is the largest"
    longer = draw_answer(frames, times, "Which?", "A van stops. " * 30, [OBJECT], width=480)
    assert longer.width == 480 and longer.height > page.height


def test_frames_and_times_must_be_as_many():
    for frames, times in (([], []), ([GREY], [0.0, 1.0])):
        with pytest.raises(ValueError, match="frames must each have a time"):
            draw_answer(frames, times, "Which?", "A van.", [])


def test_curves_become_a_picture():
    picture = plot_curves({"loss": [(0, 1.0), (1, 0.5)], "mIoU": [(0, 0.1)]}, "Training")
    assert picture.width > 600 and len(picture.convert("RGB").getcolors(100000)) > 10


@pytest.mark.filterwarnings("error:.*axes sizes collapsed")
def test_many_curves_have_panels_of_their_own_scales():
    curves = {f"justification_bleu_{number}": [(0, number * 10.0), (2000, 1.0)] for number in range(24)}
    many = plot_panels(curves, "Evaluation").convert("RGB")
    few = plot_panels(dict(list(curves.items())[:3]), "Evaluation")
    assert many.width > few.width > 600 and many.height > 4 * few.height
    width, height = many.width / 4, many.height / 6
    for row in range(6):
        for column in range(4):
            panel = many.crop((width * column, height * row, width * (column + 1), height * (row + 1)))
            assert (255, 45, 135) in {colour for _, colour in panel.getcolors(1 << 20)}


def test_bars_become_a_picture_with_a_dot_for_each_value():
    one = plot_bars({"mIoU": {"T": [0.4, 0.6], "JST": [0.2]}}, "Branches")
    assert one.width > 600
    other = plot_bars({"mIoU": {"T": [0.3, 0.7], "JST": [0.2]}}, "Branches")
    assert changed(one.convert("RGB"), other.convert("RGB")).any(), "the same mean of other values"
    two = plot_bars({"mIoU": {"T": [0.4]}, "right object": {"T": [0.6], "DST": [0.9]}}, "Branches")
    colours = {colour for _, colour in two.convert("RGB").getcolors(1 << 20)}
    assert {(255, 45, 135), (0, 166, 255)} <= colours, "a colour for each series"


def test_missing_matplotlib_is_named_with_its_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=re.escape(install_command("demo"))):
        plot_curves({}, "a")
    with pytest.raises(ImportError, match=re.escape(install_command("demo"))):
        plot_bars({}, "a")
    with pytest.raises(ImportError, match=re.escape(install_command("demo"))):
        plot_panels({"a": [(0, 1)]}, "a")


def test_a_report_holds_everything_it_shows_and_escapes_its_texts(tmp_path):
    rows = [{"adapter": "mamba", "mIoU": 0.51234}, {"adapter": "<none>", "mIoU": 0.2}]
    path = write_report(tmp_path / "report.html", "A & B", {"First <one>": ["a < b", GREY, rows], "Empty": [[]]})
    text = path.read_text("utf-8")
    assert "<h1>A &amp; B</h1>" in text and "First &lt;one&gt;" in text and "a &lt; b" in text
    assert "<td>0.512</td>" in text and "<td>&lt;none&gt;</td>" in text and "<th>mIoU</th>" in text
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', text))
    assert "http" not in text
