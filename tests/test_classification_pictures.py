"""A picture of a classified clip shows its frames, what was asked, from where, what is answered and what is right."""

import pytest

from asked_clips import HEADS, AskedClips, tiny_asked_processor
from drawn_clips import Clips
from hmba_hf.models.video_processing_videomamba import VideoMambaVideoProcessor, image_processor_of
from hmba_hf.tasks.classification import pictures
from hmba_hf.tasks.classification.pictures import draw_classified
from hmba_hf.tasks.classification.questions import AskedSample, Asking
from hmba_hf.visualization import draw_clip

ANSWER = [{"class": 0, "label": "one", "score": 0.75}, {"class": 1, "label": "two", "score": 0.25}]


@pytest.fixture
def written(monkeypatch):
    """Collect the headings and texts of pictures."""
    found = []

    def draw(frames, paragraphs):
        found.append(paragraphs)
        return draw_clip(frames, paragraphs)

    monkeypatch.setattr(pictures, "draw_clip", draw)
    return found


@pytest.mark.parametrize("source", ["generic", "annotation", "none"])
def test_the_source_of_each_question_is_written_beside_it(written, source):
    processor = tiny_asked_processor()
    asking = Asking(source, False, processor, tuple(HEADS), classes=HEADS)
    sample = AskedSample(AskedClips(1)[0], asking)
    picture = draw_classified(sample, {"heads": {"verb": ANSWER, "noun": ANSWER}}, processor, "MambaVL")
    assert picture.width == 960 and len(picture.getcolors(10**6)) > 10
    (paragraphs,) = written
    texts = {"generic": "what does it do ?", "annotation": "what does the red square do ?", "none": "nothing"}
    assert paragraphs[0] == (f"Question for verb ({source})", texts[source])
    assert paragraphs[1] == ("MambaVL", "one 0.75, two 0.25") and paragraphs[2] == ("Right answer", "moves left")
    assert paragraphs[3][0] == f"Question for noun ({source})"


def test_a_model_that_is_asked_nothing_has_an_answer_alone_and_one_of_pictures_no_picture(written):
    processor = VideoMambaVideoProcessor(num_frames=2)
    assert draw_classified(Clips(1)[0], ANSWER, processor, "VideoMamba") is not None
    assert written == [[("VideoMamba", "one 0.75, two 0.25"), ("Right answer", "left")]]
    assert draw_classified(Clips(1)[0], ANSWER, image_processor_of(16), "VideoMamba") is None
