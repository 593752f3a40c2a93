import re
import sys

import numpy as np
import pytest
from PIL import Image

from hmba_hf.visualization import attention_overlay, clip_strip, draw_boxes, plot_curves, write_report

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


def test_objects_get_colours_of_their_own_unless_one_is_given():
    def other(left):
        return {"label": "", "box": OBJECT["box"] | {"xmin": left, "xmax": left + 5}}

    objects = [other(0), other(20), other(40)]
    assert len(draw_boxes(GREY, objects).getcolors()) == 4
    assert len(draw_boxes(GREY, objects, colour="#ff0000").getcolors()) == 2


def test_attention_is_warm_where_weights_are_high():
    overlay = np.asarray(attention_overlay(GREY, np.array([[0.0, 0.0], [0.0, 7.0]]))).astype(int)
    assert overlay.shape == (40, 60, 3)
    assert overlay[-1, -1, 0] > overlay[-1, -1, 2] and overlay[0, 0, 2] > overlay[0, 0, 0]


def test_equal_weights_give_an_even_picture():
    assert len(attention_overlay(GREY, np.ones((4, 4))).getcolors()) == 1


@pytest.mark.parametrize("weights", [np.ones(4), np.full((2, 2), np.nan)])
def test_weights_of_another_form_are_refused(weights):
    with pytest.raises(ValueError, match="finite weights"):
        attention_overlay(GREY, weights)


def test_a_strip_shows_frames_in_order_and_marks_the_last():
    frames = [Image.new("RGB", (10, 20), (value, value, value)) for value in (0, 100, 200)]
    strip = np.asarray(clip_strip(frames, height=40, gap=4))
    assert strip.shape == (48, 3 * 20 + 4 * 4, 3)
    assert [strip[24, x].tolist() for x in (14, 38, 62)] == [[value] * 3 for value in (0, 100, 200)]
    assert len({tuple(value) for value in strip[0, 53:]}) == 1 and tuple(strip[0, 0]) == (255, 255, 255)
    with pytest.raises(ValueError, match="at least one frame"):
        clip_strip([])


def test_curves_become_a_picture():
    picture = plot_curves({"loss": [(0, 1.0), (1, 0.5)], "mIoU": [(0, 0.1)]}, "Training")
    assert picture.width > 600 and len(picture.convert("RGB").getcolors(100000)) > 10


def test_missing_matplotlib_is_named_with_its_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install hmba-hf\[demo\]"):
        plot_curves({}, "a")


def test_a_report_holds_everything_it_shows_and_escapes_its_texts(tmp_path):
    rows = [{"adapter": "mamba", "mIoU": 0.51234}, {"adapter": "<none>", "mIoU": 0.2}]
    path = write_report(tmp_path / "report.html", "A & B", {"First <one>": ["a < b", GREY, rows], "Empty": [[]]})
    text = path.read_text("utf-8")
    assert "<h1>A &amp; B</h1>" in text and "First &lt;one&gt;" in text and "a &lt; b" in text
    assert "<td>0.512</td>" in text and "<td>&lt;none&gt;</td>" in text and "<th>mIoU</th>" in text
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', text))
    assert "http" not in text
