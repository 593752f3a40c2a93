"""Caption metrics; with Java against the caption benchmark itself, and anywhere against its stored numbers."""

import json
import math
import os
import random
import re
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.spice import get_stanford_models
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from hmba_hf.data.samples import Sample
from hmba_hf.installation import install_command
from hmba_hf.lmms_eval_plugin import documents
from hmba_hf.metrics import caption_tokens, captioning
from hmba_hf.metrics.bootstrap import Bootstrap
from hmba_hf.metrics.caption_tokens import MetricUnavailable, benchmark_folder, java_version, tokenize_captions
from hmba_hf.metrics.captioning import bleu_counts, bleu_scores, compare_captions, score_captions
from hmba_hf.metrics.evaluate_modules import CaptionMetric
from hmba_hf.metrics.java_metrics import meteor_scores, meteor_statistics, spice_scores
from hmba_hf.tasks.answering.run import answer_metrics
from tiny_runs import run_example

STORED = json.loads((Path(__file__).parent / "golden" / "caption_scores.json").read_text())
PREDICTIONS, REFERENCES = STORED["predictions"], STORED["references"]
TOKENS = STORED["prediction_tokens"], STORED["reference_tokens"]
IN_PYTHON = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider")
WITHOUT_JAVA = java_version() is None


@pytest.fixture
def stored_tokens(monkeypatch):
    """Words as the PTB tokenizer made them once, where there is no Java to make them."""
    words = dict(zip(PREDICTIONS, TOKENS[0], strict=True))
    words |= {
        text: word
        for texts, made in zip(REFERENCES, TOKENS[1], strict=True)
        for text, word in zip(texts, made, strict=True)
    }
    monkeypatch.setattr(captioning, "tokenize_captions", lambda captions, _: [words[caption] for caption in captions])


@pytest.fixture(scope="module")
def compared():
    """The stored captions as they are compared here; METEOR, which takes seconds to start, is started once."""
    return compare_captions(PREDICTIONS, REFERENCES)


def test_scores_are_the_benchmarks_numbers(stored_tokens):
    compared = compare_captions(PREDICTIONS, REFERENCES, "words")
    scores, each = compared.scores(), compared.each()
    for name in IN_PYTHON:
        assert getattr(scores, name) == pytest.approx(STORED["scores"][name], abs=1e-9), name
        assert each[name] == pytest.approx(STORED["each"][name], abs=1e-9), name


def test_with_java_words_and_meteor_are_the_benchmarks_too_and_without_it_one_sentence_says_so(compared):
    scores = compared.scores()
    if WITHOUT_JAVA:
        assert scores.tokenizer == "words" and scores.meteor is None
        assert scores.absent["meteor"] == (
            "meteor was left out: it compares words of the tokenizer 'ptb', which needs Java"
        )
        return
    assert scores.tokenizer == "ptb"
    for name in (*IN_PYTHON, "meteor"):
        assert getattr(scores, name) == pytest.approx(STORED["scores"][name], abs=1e-4), name
        assert compared.each()[name] == pytest.approx(STORED["each"][name], abs=1e-4), name


def test_words_are_those_of_the_installed_benchmark(compared):
    if WITHOUT_JAVA:
        with pytest.raises(MetricUnavailable, match="the PTB tokenizer needs Java, and no `java` that runs"):
            tokenize_captions(PREDICTIONS, "ptb")
        return
    texts = {index: [{"caption": text} for text in texts] for index, texts in enumerate(REFERENCES)}
    answers = {index: [{"caption": text}] for index, text in enumerate(PREDICTIONS)}
    gts, res = PTBTokenizer().tokenize(texts), PTBTokenizer().tokenize(answers)
    assert [words for [words] in res.values()] == tokenize_captions(PREDICTIONS, "ptb")
    assert compared.scores().bleu_4 == pytest.approx(Bleu(4).compute_score(gts, res, verbose=0)[0][3], abs=1e-12)


def test_a_caption_is_tokenized_the_same_whatever_stands_around_it():
    rng = random.Random(0)
    odd = [
        '<a b="c',
        "?>",
        "<!--",
        "|||",
        "\u2028",
        "\x0b",
        "\x85",
        "\r\n",
        "\n",
        "\x00",
        "é",
        "日本",
        "\ud83d",
        "(",
        "'s",
    ]
    odd += ["a car", "<box>", "[0.1,0.2]", "...", "-", "Mr.", "&amp;", "can't", "\\", " "]
    captions = ["", "...", *("".join(rng.choices(odd, k=rng.randint(1, 6))) for _ in range(300))]
    order = rng.sample(range(len(captions)), len(captions))
    for tokenizer in ("words", *(() if WITHOUT_JAVA else ("ptb",))):
        tokens = tokenize_captions(captions, tokenizer)
        assert tokens[:2] == ["", ""] and not any("\n" in line for line in tokens)
        shuffled = tokenize_captions([captions[index] for index in order], tokenizer)
        assert shuffled == [tokens[index] for index in order]


def test_a_number_with_its_fraction_is_one_word_as_in_the_benchmark(java):
    java("echo 'version 17' >&2\n[ \"$1\" = -version ] || printf 'it stops in 2\\302\\2401/2 seconds .\\n'")
    assert tokenize_captions(["It stops in 2 1/2 seconds."], "ptb") == ["it stops in 2\xa01/2 seconds"]


@pytest.mark.skipif(WITHOUT_JAVA, reason="the benchmark's tokenizer needs Java")
def test_numbers_with_fractions_score_as_in_the_benchmark():
    answers = ["The car stops for 2 1/2 seconds.", "It is 3 1/4 m ahead.", "A van"]
    truth = [["It stops for 1/2 a second, or 2 1/2."], ["It is 3 or 4 m ahead."], ["The van"]]
    texts = {index: [{"caption": text} for text in texts] for index, texts in enumerate(truth)}
    gts = PTBTokenizer().tokenize(texts)
    res = PTBTokenizer().tokenize({index: [{"caption": text}] for index, text in enumerate(answers)})
    assert score_captions(answers, truth).rouge_l == pytest.approx(Rouge().compute_score(gts, res)[0], abs=1e-12)


def test_the_tokenizer_without_java_splits_lower_case_words():
    assert tokenize_captions(["A van's by the CAFÉ, slow-moving!", " \n", "3.5 m"], "words") == [
        "a van's by the café slow-moving",
        "",
        "3 5 m",
    ]


def test_separators_inside_captions_do_not_disturb_meteor():
    if WITHOUT_JAVA:
        with pytest.raises(MetricUnavailable, match="METEOR needs Java"):
            meteor_statistics(["a"], [["a"]])
        return
    odd = meteor_statistics(["a ||| car", "", "a car", "é"], [["||| a car", "|||"], ["a car"], ["a car"], ["a"]])
    assert meteor_scores(odd)[[0, 2]] == pytest.approx([1, 1], abs=1e-9)
    assert meteor_scores(odd)[[1, 3]].tolist() == [0, 0]


def test_nothing_is_left_behind_by_java():
    folders = [folder for folder in benchmark_folder().iterdir() if folder.is_dir() and folder.name != "__pycache__"]
    before = {path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts}
    if not WITHOUT_JAVA:
        tokenize_captions(["A car."], "ptb")
        with pytest.raises(AttributeError):
            meteor_statistics(["a car"], [[None]])
    assert not [child for child in psutil.Process().children(recursive=True) if "java" in child.name()]
    assert {path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts} == before


def test_without_java_words_are_split_by_rule_and_the_result_says_so(java):
    scores = score_captions(PREDICTIONS, REFERENCES)
    assert scores.tokenizer == "words" and (scores.meteor, scores.spice) == (None, None)
    assert scores.absent.keys() == {"meteor", "spice"} and all("Java" in reason for reason in scores.absent.values())
    assert scores.bleu_4 != pytest.approx(STORED["scores"]["bleu_4"], abs=1e-4), "another tokenizer, other numbers"
    with pytest.raises(MetricUnavailable, match="the PTB tokenizer needs Java"):
        score_captions(PREDICTIONS, REFERENCES, tokenizer="ptb")


def test_a_java_that_does_not_run_is_none(java):
    java("echo 'no runtime' >&2; exit 1")
    assert java_version() is None and caption_tokens.best_tokenizer() == "words"


def test_a_java_that_breaks_down_makes_meteor_absent_and_stops_the_tokenizer(java):
    java("echo 'version 17' >&2\n[ \"$1\" = -version ] || exit 3")
    with pytest.raises(MetricUnavailable, match="METEOR did not run: its Java ended early"):
        meteor_statistics(["a car"] * 9, [["a car"]] * 9)
    with pytest.raises(RuntimeError, match="the PTB tokenizer must answer 1 lines, got 0: version 17"):
        tokenize_captions(["a car"], "ptb")


def test_a_java_that_stays_silent_makes_meteor_absent_and_stops_the_tokenizer(java, monkeypatch):
    java("echo 'version 17' >&2\n[ \"$1\" = -version ] || exec /bin/sleep 60")
    monkeypatch.setattr(caption_tokens, "START_LIMIT", 0.1)
    monkeypatch.setattr(caption_tokens, "LINE_LIMIT", 0.1)
    monkeypatch.setattr(captioning, "tokenize_captions", lambda captions, _: captions)
    scores = score_captions(["a car stops"], [["a car stops"]], "ptb")
    assert scores.meteor is None and scores.rouge_l == pytest.approx(1)
    assert scores.absent["meteor"] == "meteor was left out: METEOR must answer 1 lines within 0.2 s, got no answer"
    with pytest.raises(MetricUnavailable, match="the PTB tokenizer must answer 2 lines within 0.3 s, got no answer"):
        tokenize_captions(["a car", "a van"], "ptb")


def test_a_caption_without_a_word_is_not_sent_to_meteor(java, tmp_path):
    numbers = " ".join(str(number) for number in range(23))
    loop = f'while read line; do echo "$line" >> {tmp_path}/sent; echo {numbers}; done'
    java(f"echo 'version 17' >&2\n[ \"$1\" = -version ] || {loop}")
    statistics = meteor_statistics(["", "a\rcar", " "], [["the van", "a dog"], ["a\ncar"], ["a ||| bus"]])
    assert (tmp_path / "sent").read_text().splitlines() == [
        "SCORE ||| the van ||| the van",
        "SCORE ||| a car ||| a car",
        "SCORE ||| a   bus ||| a   bus",
    ]
    assert statistics[1].tolist() == list(range(23))
    assert all(row.nonzero()[0].tolist() == [1, 3] for row in statistics[[0, 2]])
    assert meteor_scores(statistics[[0, 2]]).tolist() == [0, 0]


def test_options_of_java_in_the_environment_stay_out_of_versions_and_errors(java, monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dhttp.proxyPassword=swordfish\n-Dversion 5swordfish")
    monkeypatch.setenv("JDK_JAVA_OPTIONS", "-Dkey=swordfish")
    said = 'echo "Picked up JAVA_TOOL_OPTIONS: $JAVA_TOOL_OPTIONS" >&2\n'
    said += 'echo "NOTE: Picked up JDK_JAVA_OPTIONS: $JDK_JAVA_OPTIONS" >&2\n'
    java(f'{said}echo \'openjdk version "17.0.15" 2025-04-15\' >&2\n[ "$1" = -version ] || exit 3')
    assert java_version() == 'openjdk version "17.0.15"'
    with pytest.raises(RuntimeError) as error:
        tokenize_captions(["a car"], "ptb")
    assert "swordfish" not in str(error.value) and "17.0.15" in str(error.value)


def test_one_caption_alone_has_the_scores_that_are_defined():
    scores = score_captions(["The car stops"], [["The car stops"]], "words")
    assert [scores.bleu_1, scores.bleu_3, scores.rouge_l] == pytest.approx([1, 1, 1])
    assert scores.cider is None, "no n-gram tells a single caption from the rest of its corpus"
    assert scores.bleu_4 is None, "and nothing has four words"
    assert scores.absent.keys() == {"bleu_4", "cider", "meteor", "spice"}
    assert scores.intervals["bleu_1"] == pytest.approx((1, 1)) and scores.count == 1
    assert not {"bleu_4", "cider"} & scores.intervals.keys()


@pytest.mark.parametrize(
    "references",
    [
        [["a car stops"]] * 3,
        [["a car", "it stops"], ["it stops", "a car"]],
        [["a a car"], ["a a car"]],
    ],
)
def test_cider_of_references_that_are_all_alike_is_undefined_and_not_zero(references):
    compared = compare_captions([texts[0] for texts in references], references, "words")
    scores = compared.scores()
    assert scores.cider is None and "cider" not in scores.intervals
    assert scores.absent["cider"].startswith("cider was left out: every n-gram of the references")
    assert np.isnan(compared.each()["cider"]).all()
    other = compare_captions(["a dog", "a dog"], [["a dog"], ["the dog runs"]], "words")
    assert other.scores().cider > 0 and np.isfinite(other.each()["cider"]).all()


def test_cider_of_a_wrong_caption_is_zero():
    scores = score_captions(["it stops", "it stops"], [["a dog"], ["the cat"]], "words")
    assert scores.cider == 0.0 and "cider" not in scores.absent


def test_an_interval_needs_a_score_that_is_a_number():
    with pytest.raises(ValueError, match="a resampled score must be finite, got none of 2"):
        Bootstrap().interval(np.array([math.nan, math.inf]))


def test_captions_without_a_word_score_nothing():
    scores = score_captions(["", " ... ", "\n"], [["the car stops"], ["a dog"], ["a van"]], "words")
    assert [scores.bleu_1, scores.bleu_4, scores.rouge_l, scores.cider] == [0, 0, 0, 0]
    mixed = score_captions(["", "a dog"], [["the car stops"], ["a dog"]], "words")
    assert mixed.rouge_l == pytest.approx(0.5)


def test_intervals_come_from_whole_captions_drawn_anew(stored_tokens):
    bootstrap = Bootstrap(draws=6, seed=3)
    compared = compare_captions(PREDICTIONS, REFERENCES, "words")
    rng, count = np.random.default_rng(3), len(PREDICTIONS)
    drawn = [rng.integers(count, size=count) for _ in range(6)]
    bleu = [bleu_scores(bleu_counts([TOKENS[0][i] for i in d], [TOKENS[1][i] for i in d]).sum(0))[3] for d in drawn]
    gts, res = ({n: TOKENS[1][i] for n, i in enumerate(drawn[0])}, {n: [TOKENS[0][i]] for n, i in enumerate(drawn[0])})
    assert Bleu(4).compute_score(gts, res, verbose=0)[0][3] == pytest.approx(bleu[0], abs=1e-12)
    scores = compared.scores(bootstrap=bootstrap)
    assert scores.intervals["bleu_4"] == pytest.approx(np.quantile(bleu, [0.025, 0.975]))
    cider = [compared.cider[d].mean() for d in drawn]
    assert scores.intervals["cider"] == pytest.approx(np.quantile(cider, [0.025, 0.975]))
    assert scores == compared.scores(bootstrap=bootstrap)


def test_every_score_lies_in_its_interval_and_more_confidence_widens_it(compared):
    scores, sure = compared.scores(), compared.scores(bootstrap=Bootstrap(confidence=0.999))
    expected = set(IN_PYTHON) | (set() if WITHOUT_JAVA else {"meteor"})
    assert scores.intervals.keys() == expected | ({"spice"} if scores.spice is not None else set())
    for name, (low, high) in scores.intervals.items():
        assert low <= getattr(scores, name) <= high and low < high
        assert sure.intervals[name][0] <= low and high <= sure.intervals[name][1]


def test_a_slice_is_scored_like_a_corpus_but_for_the_n_gram_weights_of_cider(compared, stored_tokens):
    rows = [0, 3, 7, 8]
    own = score_captions([PREDICTIONS[i] for i in rows], [REFERENCES[i] for i in rows], "words")
    slice_ = compare_captions(PREDICTIONS, REFERENCES, "words").scores(rows)
    for name in ("bleu_1", "bleu_4", "rouge_l"):
        assert getattr(slice_, name) == pytest.approx(getattr(own, name))
    assert slice_.count == 4
    assert slice_.cider == pytest.approx(np.array(STORED["each"]["cider"])[rows].mean())
    assert slice_.cider != pytest.approx(own.cider)
    if not WITHOUT_JAVA:
        assert compared.scores(rows).meteor == pytest.approx(meteor_scores(compared.meteor[rows].sum(0)))
    with pytest.raises(ValueError, match="rows must be at least one"):
        compared.scores([])


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "at least one, got 0 and 0"),
        (["a"], [], "predictions must be as many as lists of references, at least one, got 1 and 0"),
        (["a"], ["a car"], "references must be a list for each caption, got 'a car' for number 0"),
        (["a", "b"], [["a"], []], r"references must be a list for each caption, got \[\] for number 1"),
        (["a"], [["a car", "..."]], r"every reference must have a word, got \['a car', '...'\] for caption 0"),
    ],
)
def test_captions_that_cannot_be_compared_are_refused(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        score_captions(predictions, references, "words")


def test_an_unknown_tokenizer_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"tokenizer must be one of \('ptb', 'words'\), got 'bpe'"):
        score_captions(["a"], [["a"]], "bpe")


def test_the_missing_benchmark_is_named_with_its_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(ImportError, match=re.escape(f"caption metrics need `{install_command('eval')}`")):
        score_captions(["a"], [["a"]])


def test_spice_downloads_nothing_and_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(get_stanford_models, "urlretrieve", lambda *_, **__: pytest.fail("a download"))
    expected = (
        "SPICE needs Java" if WITHOUT_JAVA else "SPICE needs Stanford CoreNLP 3.6.0, which `python -m pycocoeval"
    )
    if not (benchmark_folder() / "spice" / "lib" / "stanford-corenlp-3.6.0-models.jar").exists():
        with pytest.raises(MetricUnavailable, match=expected):
            spice_scores(["a"], [["a"]])


SPICE = """
import json, sys, time
from pathlib import Path
items = json.loads(Path(sys.argv[4]).read_text())
if "fail" in items[0]["test"]:
    sys.exit("Error: it fails")
if "hang" in items[0]["test"]:
    time.sleep(60)
scores = [
    {"image_id": item["image_id"], "scores": {"All": {"f": len(item["test"].split()) / 10 or None}}}
    for item in reversed(items)
]
Path(sys.argv[sys.argv.index("-out") + 1]).write_text(json.dumps(scores))
"""


@pytest.fixture
def spice_jar(monkeypatch, tmp_path):
    """A SPICE whose jar answers with the number of words of a caption, and not a number for an empty one."""

    program = tmp_path / "java"
    program.write_text(f"#!{sys.executable}\n{SPICE}")
    program.chmod(0o755)
    (tmp_path / "spice" / "lib").mkdir(parents=True)
    (tmp_path / "spice" / "lib" / "stanford-corenlp-3.6.0-models.jar").touch()
    monkeypatch.setattr("hmba_hf.metrics.java_metrics.benchmark_folder", lambda: tmp_path)
    monkeypatch.setattr("hmba_hf.metrics.java_metrics.require_java", lambda _: None)
    monkeypatch.setattr("hmba_hf.metrics.caption_tokens.require_java", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return monkeypatch


def test_spice_scores_come_in_the_order_of_the_captions(spice_jar):
    captions = [" ".join(["car"] * (1 + index % 9)) for index in range(12)]
    found = spice_scores(captions, [["car"]] * 12)
    assert found.tolist() == [(1 + index % 9) / 10 for index in range(12)]


def test_a_spice_that_is_not_defined_for_some_captions_is_absent_with_a_reason(spice_jar, stored_tokens):
    spice_jar.setattr(captioning, "meteor_statistics", lambda *_: np.ones((len(PREDICTIONS), 23)))
    scores = compare_captions(PREDICTIONS, REFERENCES, "ptb").scores()
    assert scores.spice is None and scores.absent == {
        "spice": "spice was left out: some captions give it nothing to compare"
    }
    rows = [index for index, text in enumerate(PREDICTIONS) if text]
    defined = compare_captions(PREDICTIONS, REFERENCES, "ptb").scores(rows)
    assert math.isfinite(defined.spice) and "spice" in defined.intervals


def test_a_spice_that_fails_or_hangs_is_absent_with_its_error(spice_jar):
    with pytest.raises(MetricUnavailable, match="SPICE did not run: .*exit status 1: Error: it fails"):
        spice_scores(["fail"], [["a"]])
    spice_jar.setattr("hmba_hf.metrics.caption_tokens.START_LIMIT", 0.1)
    spice_jar.setattr("hmba_hf.metrics.caption_tokens.LINE_LIMIT", 0.1)
    with pytest.raises(MetricUnavailable, match="SPICE must answer 3 lines within 0.4 s, got no answer"):
        spice_scores(["hang"], [["a", "b"]])


@pytest.mark.parametrize("options", [{"confidence": 1.0}, {"confidence": 0}, {"draws": 0}])
def test_a_bootstrap_that_draws_nothing_is_refused(options):
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\) and draws at least 1"):
        Bootstrap(**options)


def test_without_java_every_door_says_so_in_the_same_sentence(java, tmp_path, monkeypatch, capsys):
    left_out = "meteor was left out: it compares words of the tokenizer 'ptb', which needs Java"
    asked_for = "the PTB tokenizer needs Java, and no `java` that runs was found on the PATH"
    captions = ["a car stops", "the dog runs"]
    records = [
        {"id": str(number), "split": "test", "answer": caption, "reference": caption, "boxes": []}
        for number, caption in enumerate(captions)
    ]
    predictions = tmp_path / "predictions.jsonl"
    predictions.write_text("".join(json.dumps(record) + "\n" for record in records))
    words = ["--predictions", predictions, "--output_dir", tmp_path / "scores", "--draws", 2]

    quick = {"confidence": 0.95, "draws": 2, "seed": 0}
    asked = CaptionMetric(cache_dir=str(tmp_path)).compute(predictions=captions, references=captions, **quick)
    assert asked["absent"]["meteor"] == left_out
    told = []
    monkeypatch.setattr(documents.logger, "warning", told.append)
    assert math.isnan(documents.score(records, "meteor")) and left_out in told
    run_example("evaluate.py", *words)
    assert left_out in capsys.readouterr().out

    with pytest.raises(MetricUnavailable, match=asked_for):
        CaptionMetric(cache_dir=str(tmp_path)).compute(
            predictions=captions, references=captions, tokenizer="ptb", **quick
        )
    with pytest.raises(SystemExit):
        run_example("evaluate.py", *words, "--tokenizer", "ptb")
    assert asked_for in capsys.readouterr().err
    samples = [
        Sample(record["id"], "What?", record["reference"], frames=[Image.new("RGB", (8, 8))]) for record in records
    ]
    assert "rouge_l" in answer_metrics(captions, samples), "a run that learns asks for no Java"
