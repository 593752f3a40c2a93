"""The rules for files that every command takes: one spelling, one place where files are read, in each recipe."""

import importlib
import math
import sys
from dataclasses import asdict
from fractions import Fraction
from types import ModuleType

import datasets
import pytest

from hmba_hf import HMBAVideoProcessor, SourceLimits
from hmba_hf.data.driving.drama import DramaOptions, prepare_drama
from hmba_hf.data.micro_world.parquet import write_drama
from hmba_hf.data.micro_world.world import MicroWorldConfig
from hmba_hf.data.preparing.converting import RunOptions
from hmba_hf.data.samples import BDDX_QUESTION, Sample, bddx_features, to_bddx_row
from hmba_hf.data.video_options import VideoOptions
from hmba_hf.tasks.answering.arguments import parse_arguments
from hmba_hf.tasks.answering.features import feature_key
from hmba_hf.tasks.answering.prediction import PredictionArguments
from hmba_hf.training.arguments import recipe
from numbered_videos import numbered_video
from synthetic_downloads import bddx_row, drama_record, write_bddx_annotations, write_drama_download
from test_decoding_packets import packets_of
from tiny_models import tiny_model
from tiny_runs import run_example

OF_PICTURES = {"max_pixels": 10**6}
OF_LOCAL_VIDEOS = {**OF_PICTURES, "max_aspect_ratio": 5.0, "source_fps": 20.0, "only_whole": True}
OF_DOWNLOADS = {"max_bytes": 10**6, "max_unstated_bytes": 10**6, "max_seconds": 5.0, "max_download_seconds": 9.0}
OF_VIDEOS = {**OF_LOCAL_VIDEOS, **OF_DOWNLOADS}
OPTIONS = {
    "predict.py": OF_VIDEOS,
    "evaluate.py": OF_VIDEOS,
    "finetune.py": OF_VIDEOS,
    "cache_features.py": OF_VIDEOS,
    "describe_video.py": OF_VIDEOS,
    "stream_video.py": OF_VIDEOS,
    "demo.py": OF_VIDEOS,
    "prepare_bddx.py": OF_LOCAL_VIDEOS,
    "prepare_drama.py": OF_PICTURES,
}
ANSWERING = "--model {model} --output_dir {out} --device_map cpu --max_new_tokens 1 --dataset_name"
LEARNING = "finetune.py --model {model} --output_dir {out} --use_cpu --max_steps 1 --learns adapter --save_strategy no"
CACHING = "cache_features.py --model {model} --output_dir {out} --use_cpu"
WATCHING = "stream_video.py --model {model} --output_dir {out} --on_error stop --max_new_tokens 1"
DESCRIBING = "describe_video.py --model {model} --output {out}/a.png --max_new_tokens 1"
PREPARING = "--output_dir {out} --on_error stop --annotations"
OF_A_VIDEO = {
    "predict": f"predict.py {ANSWERING} {{place}}/bddx",
    "evaluate": f"evaluate.py {ANSWERING} {{place}}/bddx --tokenizer words --draws 5",
    "finetune": f"{LEARNING} --dataset_name {{place}}/bddx",
    "finetune from a stream": f"{LEARNING} --dataset_name {{place}}/bddx --streaming True",
    "cache_features": f"{CACHING} --dataset_name {{place}}/bddx",
    "prepare_bddx": f"prepare_bddx.py {PREPARING} {{place}}/drives.csv --videos {{place}} --split_rule ranges",
    "describe_video": f"{DESCRIBING} --video {{place}}/drive.mp4",
    "stream_video": f"{WATCHING} --source {{place}}/drive.mp4",
}
OF_A_PICTURE = {
    "predict": f"predict.py {ANSWERING} {{place}}/drama",
    "finetune": f"{LEARNING} --dataset_name {{place}}/drama",
    "finetune from a stream": f"{LEARNING} --dataset_name {{place}}/drama --streaming True",
    "cache_features": f"{CACHING} --dataset_name {{place}}/drama",
    "prepare_drama": f"prepare_drama.py {PREPARING} {{place}}/integrated_output_v2.json --images {{place}}",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A video with pixels four times as wide as high, whose last picture is torn; datasets and downloads beside it."""

    def widen(stream):
        stream.sample_aspect_ratio = Fraction(4, 1)

    folder = tmp_path_factory.mktemp("place")
    data = numbered_video(20, size=(32, 32), container="avi", prepare=widen)
    position, size = packets_of(data)[-1]
    video = data[: position + 2 * size // 3]
    (folder / "drive.mp4").write_bytes(video)
    row = to_bddx_row(Sample("drive_0", BDDX_QUESTION, "It goes\nfor it may", video=video), 0.0, 2.0)
    whole = to_bddx_row(Sample("other_1", BDDX_QUESTION, "It stops\nas it must", video=numbered_video(20)), 0.0, 2.0)
    rows = datasets.Dataset.from_list([row, whole], features=bddx_features())
    (folder / "bddx" / "data").mkdir(parents=True)
    for split in ("train", "test"):
        rows.to_parquet(folder / "bddx" / "data" / f"{split}-00000-of-00001.parquet")
    (folder / "other.mp4").write_bytes(numbered_video(20))
    segments = [bddx_row(name, (0, 2, "It goes", "for it may")) for name in ("drive", "other")]
    write_bddx_annotations(folder, segments, {}).rename(folder / "drives.csv")
    write_drama(folder / "drama", MicroWorldConfig(frame_size=32), {"train": 1, "test": 1})
    write_drama_download(folder, [drama_record("titan/clip_1_000002", 2)], {"titan/clip_1_000002": (1, 2)})
    return folder


@pytest.fixture
def start(place, stored_model, tmp_path, monkeypatch):
    """Run a command of the tables, each time in a new folder."""
    # It sleeps for as long as a stream of one row is read.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)

    def run(command, **options):
        out = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        words = command.format(place=place, model=stored_model, out=out).split()
        for name, value in options.items():
            words += [f"--{name}", value]
        run_example(*words)
        return "".join(path.read_text() for path in out.glob("*.json*"))

    return run


@pytest.mark.parametrize("name", OF_A_VIDEO)
def test_a_command_reads_a_video_as_its_options_say(name, start, caplog, capsys):
    with pytest.raises((ValueError, SystemExit), match="max_aspect_ratio=3, got 4"):
        start(OF_A_VIDEO[name])
    start(OF_A_VIDEO[name], max_aspect_ratio=5)
    assert "frames from there on may look wrong" in caplog.text
    with pytest.raises((ValueError, SystemExit), match="is not whole"):
        start(OF_A_VIDEO[name], max_aspect_ratio=5, only_whole=True)
    if "on_error" in OF_A_VIDEO[name] or "dataset_name" in OF_A_VIDEO[name]:
        capsys.readouterr()
        written = start(OF_A_VIDEO[name], max_aspect_ratio=5, only_whole=True, on_error="skip")
        assert "is not whole" in written + capsys.readouterr().out


@pytest.mark.parametrize("name", OF_A_PICTURE)
def test_a_command_reads_a_picture_within_its_limits(name, start):
    start(OF_A_PICTURE[name])
    with pytest.raises(ValueError, match="max_pixels=100, got 32 x"):
        start(OF_A_PICTURE[name], max_pixels=100)


@pytest.mark.parametrize("program", OPTIONS)
def test_a_program_names_the_options_as_all_others_do(program, capsys):
    with pytest.raises(SystemExit):
        run_example(program, "--help")
    shown = capsys.readouterr().out
    assert {name for name in OF_VIDEOS if f"--{name} " in shown} == OPTIONS[program].keys()


def test_the_plug_in_reads_files_as_its_options_say(place, stored_model, monkeypatch):
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["lmms_eval.api.model"].lmms = object
    monkeypatch.delitem(sys.modules, "hmba_hf.lmms_eval_plugin.model", raising=False)
    plugin = importlib.import_module("hmba_hf.lmms_eval_plugin.model").HMBA
    monkeypatch.delitem(sys.modules, "hmba_hf.lmms_eval_plugin.model")

    def read(**options):
        sampling = plugin(str(stored_model), device="cpu", **options).processor.video_processor
        return sampling([str(place / "drive.mp4")])

    with pytest.raises(ValueError, match="max_aspect_ratio=3, got 4"):
        read()
    assert read(max_aspect_ratio="5") and read(max_aspect_ratio=5, only_whole="False")
    with pytest.raises(ValueError, match="is not whole"):
        read(max_aspect_ratio=5.0, only_whole="True")
    with pytest.raises(ValueError, match="max_pixels must be a number greater than zero, got 'many'"):
        read(max_pixels="many")
    with pytest.raises(TypeError, match="max_pixel"):
        read(max_pixel=5)


@pytest.mark.parametrize("name", OF_VIDEOS)
def test_an_option_that_is_not_as_usual_makes_another_recipe_and_all_others_make_none(name):
    changed = {name: OF_VIDEOS[name]}
    usual = PredictionArguments().recipe()
    assert not usual.keys() & OF_VIDEOS.keys(), "version 0.1 has none of them"
    assert PredictionArguments(**changed).recipe() == {**usual, **changed}

    model_args, data_args, args = parse_arguments("", ["--model", "m", "--use_cpu", "True"])
    usual = recipe(model_args, data_args, args)
    assert not usual.keys() & OF_VIDEOS.keys()
    _, data_args, _ = parse_arguments("", ["--model", "m", f"--{name}", str(OF_VIDEOS[name])])
    assert recipe(model_args, data_args, args) == {**usual, **changed}

    model = tiny_model()
    sampling = HMBAVideoProcessor()
    usual = feature_key(model, sampling, model.dtype)
    sampling.set_source_rules(**VideoOptions(**changed).rules)
    key = feature_key(model, sampling, model.dtype)
    assert key.keys() - usual.keys() == {f"video processor's {name}"}
    assert {key: usual[key] for key in usual} == usual


def test_a_dataset_that_was_prepared_with_other_limits_is_refused(place, tmp_path):
    options = {"images": str(place), "annotations": str(place / "integrated_output_v2.json")}
    report = prepare_drama(DramaOptions(**options), RunOptions(str(tmp_path)))
    assert "max_pixels" not in report["settings"]
    with pytest.raises(ValueError, match="with other options .max_pixels: None, now 5000"):
        prepare_drama(DramaOptions(**options, max_pixels=5000), RunOptions(str(tmp_path)))


@pytest.mark.parametrize("only_whole", [None, True])
def test_rules_of_a_run_stay_with_it_and_what_is_not_given_stays(tmp_path, only_whole):
    sampling = HMBAVideoProcessor(source_fps=20, only_whole=only_whole)
    sampling.set_source_rules(only_whole=True, limits=SourceLimits(max_pixels=9))
    sampling.set_source_rules()
    assert sampling.source_rules == {"limits": SourceLimits(max_pixels=9), "source_fps": 20, "only_whole": True}
    sampling.save_pretrained(tmp_path)
    loaded = HMBAVideoProcessor.from_pretrained(tmp_path)
    assert loaded.source_rules == {"limits": SourceLimits(), "source_fps": 20, "only_whole": bool(only_whole)}


@pytest.mark.parametrize("wrong", [{"max_pixels": 0}, {"source_fps": -1.0}, {"only_whole": "yes"}])
def test_a_wrong_option_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} must be"):
        VideoOptions(**wrong)


def test_limits_have_the_same_defaults_everywhere():
    assert VideoOptions().limits == SourceLimits() and VideoOptions().stated() == {}
    limits = asdict(SourceLimits())
    assert limits.pop("max_video_seconds") == math.inf, "bounded by servers alone, with limits of their own"
    assert limits.items() <= asdict(VideoOptions()).items()
