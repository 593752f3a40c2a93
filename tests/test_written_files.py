"""What is written tells nothing of the environment: no password of a proxy, no token, no name of machine or user."""

import socket

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from hmba_hf.hub import CardDetails, recorded_training, save_checkpoint
from hmba_hf.metrics.caption_tokens import java_version
from synthetic_downloads import drama_record, write_bddx_download, write_drama_download
from tiny_runs import evaluate, run_example

SECRET = "swordfish"
# Where people keep what nobody else may read.
ENVIRONMENT = {
    "JAVA_TOOL_OPTIONS": f"-Dhttp.proxyPassword={SECRET} -Dhttp.proxyHost=proxy",
    "_JAVA_OPTIONS": f"-Dkey={SECRET}",
    "JDK_JAVA_OPTIONS": f"-Dkey={SECRET}",
    "HTTP_PROXY": f"http://user:{SECRET}@127.0.0.1:9",
    "https_proxy": f"http://user:{SECRET}@127.0.0.1:9",
    "HF_TOKEN": f"hf_{SECRET}",
    "HUGGING_FACE_HUB_TOKEN": f"hf_{SECRET}",
    "WANDB_API_KEY": SECRET,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "PIP_INDEX_URL": f"https://user:{SECRET}@host/simple",
    "SLURM_JOB_NAME": SECRET,
    "TENSORBOARD_LOGGING_DIR": f"/tmp/{SECRET}",
    "USER": SECRET,
    "HOSTNAME": SECRET,
}
# A Java that says what it finds in the environment, as every Java does, and answers tokens and METEOR's numbers.
JAVA = f"""
for name in JAVA_TOOL_OPTIONS _JAVA_OPTIONS JDK_JAVA_OPTIONS; do
  eval "echo \\"Picked up $name: \\$$name\\"" >&2
done
case "$*" in
  *-version*) echo 'openjdk version "17.0.1" 2021-10-19' >&2 ;;
  *PTBTokenizer*) while read -r line; do echo "$line"; done ;;
  *) while read -r line; do echo "{" ".join(["1"] * 23)}"; done ;;
esac
"""


@pytest.fixture
def planted(monkeypatch, java):
    """An environment full of secrets, and a Java that prints them."""
    monkeypatch.setattr(socket, "gethostname", lambda: SECRET)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    java(JAVA)


def written(folder):
    """All files below a folder, by their names there."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_is_trained_evaluated_and_put_on_a_card_keeps_the_environment_to_itself(
    planted, stored_model, tmp_path, capfd
):
    run, scores, checkpoint = tmp_path / "run", tmp_path / "scores", tmp_path / "checkpoint"
    options = ["--max_steps", 1, "--save_steps", 1, "--per_device_train_batch_size", 1, "--use_cpu", "True"]
    options += ["--max_train_samples", 2, "--max_eval_samples", 1, "--eval_strategy", "steps", "--logging_steps", 1]
    run_example("finetune.py", "--model", stored_model, "--output_dir", run, *options)
    evaluate(run, scores, "--tokenizer", "ptb")
    model, processor = AutoModelForImageTextToText.from_pretrained(run), AutoProcessor.from_pretrained(run)
    card = CardDetails(training=recorded_training(run), environment={"java": java_version()})
    save_checkpoint(checkpoint, model, processor, [scores], card)
    files = written(tmp_path)
    wanted = {"run/history.json", "run/checkpoint-1/seal.json", "scores/metrics.json", "scores/eval_results.json"}
    assert files.keys() >= wanted | {"scores/predictions.jsonl", "run/training_arguments.json", "checkpoint/README.md"}
    telling = {name for name, content in files.items() if SECRET.encode() in content}
    printed = capfd.readouterr()
    assert (telling, SECRET in printed.out, SECRET in printed.err) == (set(), False, False)
    assert b"openjdk" in files["scores/metrics.json"] and b"17.0.1" in files["checkpoint/README.md"]
    assert b"meteor" in files["scores/metrics.json"]


def test_what_is_prepared_cached_and_predicted_keeps_the_environment_to_itself(planted, stored_model, tmp_path, capfd):
    raw, bddx, drama = tmp_path / "raw", tmp_path / "bddx", tmp_path / "drama"
    annotations = write_bddx_download(raw / "bddx")
    run_example(
        *("prepare_bddx.py", "--annotations", annotations, "--videos", raw / "bddx" / "videos"),
        *("--output_dir", bddx, "--num_workers", 1),
    )
    annotations = write_drama_download(raw / "drama", [drama_record("clip", 5)], {"clip": range(1, 6)})
    run_example(
        *("prepare_drama.py", "--annotations", annotations, "--images", raw / "drama"),
        *("--output_dir", drama, "--num_workers", 1),
    )
    run_example(
        *("cache_features.py", "--model", stored_model, "--output_dir", tmp_path / "features"),
        *("--dataset_name", "micro-world", "--max_train_samples", 2, "--use_cpu"),
    )
    run_example(
        *(
            "predict.py",
            "--model",
            stored_model,
            "--dataset_name",
            "micro-world",
            "--output_dir",
            tmp_path / "answers",
        ),
        *("--max_samples", 1, "--max_new_tokens", 2),
    )
    files = written(tmp_path)
    assert files.keys() >= {"bddx/report.json", "drama/report.json", "answers/predictions.jsonl"}
    assert any(name.startswith("features/") for name in files)
    telling = {name for name, content in files.items() if SECRET.encode() in content}
    printed = capfd.readouterr()
    assert (telling, SECRET in printed.out, SECRET in printed.err) == (set(), False, False)
