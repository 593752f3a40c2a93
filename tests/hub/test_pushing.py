"""Checkpoints go to the Hub and come back: in one commit, without leftovers, pinned, and past everything hostile."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from hmba_hf import HMBAProcessor
from hmba_hf.data.micro_world import MicroWorld, MicroWorldConfig
from hmba_hf.data.micro_world_files import write_video
from hmba_hf.hub import CardDetails, push_checkpoint
from hmba_hf.training import LoraSettings, learn
from hmba_hf.training.low_rank import LowRankModel
from tiny_bases import save_base, tune
from tiny_runs import evaluate, run_example

both_transports = pytest.mark.parametrize("transport", ["lfs", "xet"])
SHARDS = {"max_shard_size": "40KB"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A random model in a folder."""
    torch.manual_seed(0)
    return save_base(tmp_path_factory.mktemp("saved"), adapter="mamba")


@pytest.fixture
def parts(saved):
    return AutoModelForImageTextToText.from_pretrained(saved), AutoProcessor.from_pretrained(saved)


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "dashcam.mp4"
    write_video(path, [*MicroWorld(MicroWorldConfig(frame_size=32, num_frames=20), "test", 1)[0].frames] * 3)
    return path


def titles(repository, revision="main"):
    return [commit.title for commit in repository.log(revision)]


def assert_equal_weights(model, other):
    weights = other.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())


@both_transports
def test_a_checkpoint_is_one_commit_and_the_next_pins_it_in_the_card(hub, parts):
    commit = push_checkpoint(*parts, "org/tiny", card=CardDetails(license="mit"), **SHARDS)
    repository = hub.repository("org/tiny")
    assert repository.private and titles(repository) == ["Pin the revision", "Upload model", "initial commit"]
    first, last = repository.files(commit.oid), repository.files()
    assert {name for name in last if last[name] != first[name]} == {"README.md"} and last.keys() == first.keys()
    assert len([name for name in last if name.endswith(".safetensors")]) > 2
    assert "revision = None" in first["README.md"].decode() and commit.oid in last["README.md"].decode()
    for revision in ("main", commit.oid):
        loaded = AutoModelForImageTextToText.from_pretrained("org/tiny", revision=revision)
        assert_equal_weights(parts[0], loaded)
    HfApi().create_tag("org/tiny", tag="v1", revision=commit.oid)
    assert_equal_weights(parts[0], AutoModelForImageTextToText.from_pretrained("org/tiny", revision="v1"))


@both_transports
def test_what_is_there_already_makes_no_commit(hub, parts):
    commit = push_checkpoint(*parts, "org/tiny", **SHARDS)
    repository = hub.repository("org/tiny")
    head = repository.head
    again = push_checkpoint(*parts, "org/tiny", **SHARDS)
    assert (again.oid, again.commit_url) == (commit.oid, commit.commit_url) and repository.head == head
    HfApi().upload_file(path_or_fileobj=b"mine", path_in_repo="notes.md", repo_id="org/tiny")
    assert push_checkpoint(*parts, "org/tiny", **SHARDS).oid == commit.oid, "what is no part of it changes nothing"

    with torch.no_grad():
        parts[0].lm_head.weight[-1, -1].add_(1)
    changed = push_checkpoint(*parts, "org/tiny", **SHARDS)
    assert titles(repository)[:3] == ["Pin the revision", "Upload model", "Upload notes.md with huggingface_hub"]
    assert changed.oid in repository.files()["README.md"].decode()
    push_checkpoint(*parts, "org/tiny", card=CardDetails(license="mit"), **SHARDS)
    assert titles(repository)[:3] == ["Pin the revision", "Upload model", "Pin the revision"], "another card"


def test_a_card_that_was_left_without_its_pin_gets_it_by_the_next_push(hub, parts):
    hub.faults.fail("commit", 403, skip=1)
    with pytest.warns(UserWarning, match="its card does not say so: .*403"):
        commit = push_checkpoint(*parts, "org/tiny")
    repository = hub.repository("org/tiny")
    assert repository.head == commit.oid
    assert push_checkpoint(*parts, "org/tiny").oid == commit.oid
    assert titles(repository) == ["Pin the revision", "Upload model", "initial commit"]


def test_the_models_own_push_to_hub_ends_in_the_same_place_with_the_same_card(hub, parts):
    model, processor = parts
    processor.push_to_hub("org/own", private=True)
    commit = model.push_to_hub("org/own", commit_message="Mine", tags="night", max_shard_size="40KB")
    push_checkpoint(model, processor, "org/twin", card=CardDetails(tags=["night"]), **SHARDS)
    own, other = hub.repository("org/own"), hub.repository("org/twin")
    assert own.private and titles(own)[:2] == ["Pin the revision", "Mine"]
    files, wanted = own.files(), other.files()
    assert {name: files[name] for name in files if name != "README.md"} == {
        name: wanted[name] for name in wanted if name != "README.md"
    }
    card, named = files["README.md"].decode(), wanted["README.md"].decode()
    (pinned,) = re.findall('"([0-9a-f]{40})"', named)
    assert card == named.replace(pinned, commit.oid).replace("twin", "own")
    assert HMBAProcessor.from_pretrained("org/own", revision=commit.oid)

    first = model.push_to_hub("org/model_first")
    assert titles(hub.repository("org/model_first")) == ["Upload model", "initial commit"], "no processor, no pin"
    processor.push_to_hub("org/model_first")
    assert pipeline("video-text-to-text", model="org/model_first", device="cpu")
    assert model.push_to_hub("org/model_first").oid != first.oid
    assert titles(hub.repository("org/model_first"))[0] == "Pin the revision"


@pytest.mark.parametrize("options", [{"token": "hf_x"}, {"create_pr": True}, {"commit_description": "Why"}])
def test_what_a_push_does_not_offer_is_refused_before_anything_happens(hub, parts, options):
    with pytest.raises(
        ValueError, match=f"a push to a branch, with the token of .* is wanted, got .*{min(options)}"
    ) as error:
        parts[0].push_to_hub("org/tiny", **options)
    assert "hf_x" not in str(error.value) and not hub.repositories
    with pytest.raises(TypeError, match=r"a commit has \['message', .*, got \['branch'\]"):
        push_checkpoint(*parts, "org/tiny", branch="next")
    assert not hub.repositories


def test_of_two_pushes_at_once_one_is_whole_and_the_other_hears_of_it(hub, parts, saved):
    push_checkpoint(*parts, "org/tiny")
    other = AutoModelForImageTextToText.from_pretrained(saved)
    with torch.no_grad():
        parts[0].lm_head.weight.add_(1)
        other.lm_head.weight.add_(2)
    held = hub.faults.hold("commit")
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(push_checkpoint, *parts, "org/tiny", **SHARDS)
        held.wait_until_reached()
        fast = push_checkpoint(other, parts[1], "org/tiny")
        held.release()
        with pytest.raises(RuntimeError, match="somebody else has pushed, and nothing of this push is there"):
            slow.result()
    assert fast.oid in hub.repository("org/tiny").files()["README.md"].decode()
    assert_equal_weights(other, AutoModelForImageTextToText.from_pretrained("org/tiny"))


@both_transports
def test_a_push_takes_out_what_a_loader_would_mix_with_it(hub, parts):
    hub.create("org/tiny", private=True)
    api, keep = HfApi(), {"notes.md": b"mine", "last/model.safetensors": b"mine", "train.py": b"mine"}
    stale = ("training_args.bin", "pytorch_model.bin", "adapter_config.json", "ops_gone.py")
    for name, content in {**keep, **dict.fromkeys(stale, b"old")}.items():
        api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id="org/tiny")
    push_checkpoint(*parts, "org/tiny", **SHARDS)
    sharded = hub.repository("org/tiny").files()
    assert "model.safetensors.index.json" in sharded and not sharded.keys() & {*stale}
    push_checkpoint(*parts, "org/tiny")
    files = hub.repository("org/tiny").files()
    assert [name for name in files if "safetensors" in name] == ["last/model.safetensors", "model.safetensors"]
    assert {name: files[name] for name in keep} == keep


def test_a_public_repository_is_refused_unless_it_is_said(hub, parts):
    hub.create("org/open")
    before = hub.repository("org/open").head
    with pytest.raises(ValueError, match="org/open is public: name another repository, or say that the model may"):
        push_checkpoint(*parts, "org/open")
    assert hub.repository("org/open").head == before
    push_checkpoint(*parts, "org/open", private=False)
    push_checkpoint(*parts, "org/new", private=False)
    assert not hub.repository("org/open").private and not hub.repository("org/new").private


def test_a_push_goes_to_a_branch_that_is_asked_for(hub, parts):
    commit = push_checkpoint(*parts, "org/tiny", revision="next", message="Try it")
    repository = hub.repository("org/tiny")
    assert titles(repository, "next")[:2] == ["Pin the revision", "Try it"] and titles(repository) == [
        "initial commit"
    ]
    assert commit.oid in repository.files("next")["README.md"].decode()


def test_who_comes_second_hears_of_it_and_changes_nothing(hub, parts):
    push_checkpoint(*parts, "org/tiny")
    old = hub.repository("org/tiny").head
    HfApi().upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="org/tiny")
    head = hub.repository("org/tiny").head
    with pytest.raises(RuntimeError, match=f"org/tiny is no longer at commit {old}: somebody else has pushed"):
        push_checkpoint(*parts, "org/tiny", parent_commit=old, **SHARDS)
    assert hub.repository("org/tiny").head == head
    hub.faults.fail("commit", 412, skip=1)
    with pytest.warns(UserWarning, match="its card does not say so: .*somebody else has pushed"):
        commit = push_checkpoint(*parts, "org/tiny", **SHARDS)
    assert hub.repository("org/tiny").head == commit.oid


@pytest.mark.parametrize("route", ["upload", "commit"])
def test_a_push_that_is_cut_off_leaves_what_was_there(hub, parts, route, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits before it tries again
    push_checkpoint(*parts, "org/tiny")
    before = hub.repository("org/tiny").head
    with torch.no_grad():
        parts[0].lm_head.weight.add_(1)
    hub.faults.cut_request(route, 10, times=50)
    with pytest.raises(Exception):  # noqa: B017 - whatever the client makes of it
        push_checkpoint(*parts, "org/tiny")
    hub.faults.clear()
    assert hub.repository("org/tiny").head == before
    loaded = AutoModelForImageTextToText.from_pretrained("org/tiny")
    assert not torch.equal(loaded.lm_head.weight, parts[0].lm_head.weight)
    push_checkpoint(*parts, "org/tiny")
    assert_equal_weights(parts[0], AutoModelForImageTextToText.from_pretrained("org/tiny"))


def test_the_cards_snippet_runs_as_it_stands(hub, parts, run, clip):
    push_checkpoint(*parts, "org/tiny")
    card = ModelCard(hub.repository("org/tiny").files()["README.md"].decode())
    (snippet,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    here = f"import os, sys\nos.chdir({str(clip.parent)!r})\n"
    source = f"sys.path.insert(0, {str(Path(__file__).parents[2] / 'src')!r})\n"
    quick = snippet.replace("timestamp=12.4", "timestamp=0.4, max_new_tokens=3")
    with_package = run(here + source + quick)
    assert with_package.returncode == 0 and "generated_text" in with_package.stdout, with_package.stderr
    trusting = quick.replace("import hmba_hf", "# import hmba_hf").replace(
        "revision=rev", "trust_remote_code=True, revision=rev"
    )
    without = run(here + trusting)
    assert without.returncode == 0 and without.stdout == with_package.stdout, without.stderr


def test_a_run_reaches_the_card_by_command(hub, saved, tmp_path, capsys):
    folder = evaluate(saved, tmp_path / "run")
    words = ["--model", saved, "--repo_id", "org/tiny", "--license", "mit", "--results", folder]
    Image.new("RGB", (8, 8)).save(tmp_path / "answer.png")
    run_example("push.py", *words, "--picture", tmp_path / "answer.png")
    assert f"pushed: {hub.url}/org/tiny/commit/" in capsys.readouterr().out
    data = HfApi().model_info("org/tiny").card_data
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {one.metric_value for one in data.eval_results} <= {*metrics["scores"].values()}
    assert "example_answer.png" in hub.repository("org/tiny").files()


def test_a_commit_that_was_pinned_stays_what_it_was(hub, parts, run, tmp_path):
    """Whoever may push changes the code: a pinned commit is the old one, and one that is gone is an error."""
    pinned = push_checkpoint(*parts, "org/tiny").oid
    evil = b"open('trace', 'w')\n" + hub.repository("org/tiny").files()["configuration_hmba.py"]
    HfApi().upload_file(path_or_fileobj=evil, path_in_repo="configuration_hmba.py", repo_id="org/tiny")
    script = "import sys; from transformers import AutoConfig; AutoConfig.from_pretrained('org/tiny', revision="
    script += "sys.argv[1], trust_remote_code=True); print(*sorted(sys.modules))"
    done = run(script, pinned)
    assert done.returncode == 0 and pinned in done.stdout, done.stderr
    assert not list(tmp_path.rglob("trace"))
    gone = run(script, "0" * 40)
    assert gone.returncode and "0" * 40 in gone.stderr and "is not a valid git identifier" in gone.stderr


def test_lists_in_a_repository_do_not_lead_out_of_it(hub, parts, tmp_path):
    push_checkpoint(*parts, "org/tiny", **SHARDS)
    api, index = HfApi(), json.loads(hub.repository("org/tiny").files()["model.safetensors.index.json"])
    index["weight_map"] = dict.fromkeys(index["weight_map"], "../../../../outside.safetensors")
    api.upload_file(
        path_or_fileobj=json.dumps(index).encode(), path_in_repo="model.safetensors.index.json", repo_id="org/tiny"
    )
    with pytest.raises(ValueError, match="must name files beside it, got .*outside.safetensors"):
        AutoModelForImageTextToText.from_pretrained("org/tiny")


def test_pickled_weights_of_a_repository_are_not_opened(hub, parts):
    push_checkpoint(*parts, "org/tiny")
    api = HfApi()
    api.delete_file("model.safetensors", "org/tiny")
    api.upload_file(path_or_fileobj=b"\x80\x04", path_in_repo="pytorch_model.bin", repo_id="org/tiny")
    with pytest.raises(OSError, match="H-MBA loads weights in safetensors only"):
        AutoModelForImageTextToText.from_pretrained("org/tiny")
    assert not [request for request in hub.asked("download") if "pytorch_model" in request.path]


def lora(processor, name="org/base"):
    base = AutoModelForImageTextToText.from_pretrained(name)
    commit = HfApi().model_info(name).sha
    settings = LoraSettings(rank=2, targets=["q_proj"], base_commit=commit)
    model, _ = learn(base, ["adapter", "lora"], settings)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.1)
    return model.eval(), commit


def test_low_rank_updates_are_pushed_and_loaded_in_every_way(hub, parts, run, clip):
    push_checkpoint(*parts, "org/base")
    model, commit = lora(parts[1])
    pushed = push_checkpoint(model, parts[1], "org/lora").oid
    files = hub.repository("org/lora").files()
    assert json.loads(files["adapter_config.json"])["revision"] == commit and "config.json" not in files
    card = ModelCard(files["README.md"].decode())
    assert (card.data.library_name, card.data.base_model) == ("peft", ["org/base"]) and pushed in card.text

    frames = [Image.new("RGB", (40, 20), (0, 40 * i, 80)) for i in range(3)]
    chat = [{"role": "user", "content": [{"type": "video", "video": frames}, {"type": "text", "text": "Which?"}]}]
    inputs = parts[1].apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
    base = AutoModelForImageTextToText.from_pretrained("org/base", revision=commit)
    with torch.no_grad():
        wanted = model(**inputs).logits
        assert not torch.allclose(base(**inputs).logits, wanted, atol=1e-3)
        by_name = AutoModelForImageTextToText.from_pretrained("org/lora")
        piped = pipeline("video-text-to-text", model="org/lora").model
        by_peft = PeftModel.from_pretrained(base, "org/lora", revision=pushed)
        for loaded in (by_name, piped, by_peft):
            torch.testing.assert_close(loaded.eval()(**inputs).logits, wanted, rtol=0, atol=2e-6)
    (snippet,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    source = f"import os, sys\nsys.path.insert(0, {str(Path(__file__).parents[2] / 'src')!r})\n"
    quick = snippet.replace("timestamp=12.4", "timestamp=0.4, max_new_tokens=3")
    done = run(f"{source}os.chdir({str(clip.parent)!r})\n{quick}")
    assert done.returncode == 0 and "generated_text" in done.stdout, done.stderr


def test_the_own_push_to_hub_of_low_rank_updates_ends_in_the_same_place_with_the_same_card(hub, parts):
    push_checkpoint(*parts, "org/base")
    model, base = lora(parts[1])
    push_checkpoint(model, parts[1], "org/twin")
    pushed = model.push_to_hub("org/own", processor=parts[1]).oid
    files, wanted = (hub.repository(name).files() for name in ("org/own", "org/twin"))
    assert files.keys() == wanted.keys() and files["adapter_model.safetensors"] == wanted["adapter_model.safetensors"]
    card = ModelCard(files["README.md"].decode())
    assert (card.data.library_name, card.data.base_model) == ("peft", ["org/base"])
    assert base in card.text and pushed in card.text
    again = LowRankModel.from_pretrained(AutoModelForImageTextToText.from_pretrained("org/base"), "org/own")
    again.push_to_hub("org/own", tags=["night"])
    card = ModelCard(hub.repository("org/own").files()["README.md"].decode())
    assert card.data.base_model == ["org/base"] and {"lora", "night"} <= {*card.data.tags}


@pytest.fixture
def pushed_base(hub, parts):
    push_checkpoint(*parts, "org/base")
    return "org/base"


PUSH = ["--push_to_hub", "True", "--hub_model_id", "org/tuned", "--eval_split", "test", "--max_new_tokens", "3"]


def test_training_pushes_where_push_checkpoint_does(hub, pushed_base, tmp_path):
    trainer = tune(
        pushed_base, tmp_path / "out", *PUSH, "--max_steps", 2, "--hub_license", "mit", "--hub_strategy", "end"
    )
    repository = hub.repository("org/tuned")
    assert repository.private and titles(repository) == ["Pin the revision", "Model save", "initial commit"]
    files = repository.files()
    assert "training_args.bin" not in files and (tmp_path / "out" / "training_args.bin").exists()
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    assert json.loads(files["training_arguments.json"])["max_steps"] == 2 and "example_answer.png" in files
    card = ModelCard(files["README.md"].decode())
    assert (card.data.license, card.data.base_model) == ("mit", ["org/base"])
    assert "| `max_steps` | 2 |" in card.text and "torch 2" in card.text and "micro-world" in card.data.tags
    assert card.data.eval_results is None
    assert_equal_weights(trainer.model, AutoModelForImageTextToText.from_pretrained("org/tuned"))
    trainer.create_model_card(license="apache-2.0")
    assert ModelCard.load(tmp_path / "out" / "README.md").data.license == "apache-2.0"


def test_training_pushes_its_checkpoints_while_it_goes_on(hub, pushed_base, tmp_path):
    words = ["--max_steps", 4, "--save_steps", 2, "--hub_strategy", "every_save", "--hub_always_push", "True"]
    trainer = tune(pushed_base, tmp_path / "out", *PUSH, *words)
    repository = hub.repository("org/tuned")
    steps = [f"Training in progress, step {step}" for step in (4, 2)]
    assert titles(repository) == ["Pin the revision", "Model save", *steps, "initial commit"]
    for commit in repository.log():
        assert not [name for name in commit.files if name.endswith((".bin", ".pt", ".pkl", ".pth"))]
    assert not list((tmp_path / "out").glob("_pushing-*"))
    assert_equal_weights(trainer.model, AutoModelForImageTextToText.from_pretrained("org/tuned"))


def test_a_push_that_fails_during_training_ends_nothing(hub, pushed_base, tmp_path):
    words = ["--max_steps", 2, "--save_steps", 1, "--hub_strategy", "every_save", "--hub_always_push", "True"]
    hub.faults.fail("commit", 403)
    with pytest.warns(UserWarning, match="a push during training came to nothing: .*403"):
        tune(pushed_base, tmp_path / "out", *PUSH, *words)
    assert titles(hub.repository("org/tuned"))[:2] == ["Pin the revision", "Model save"]


def test_low_rank_updates_are_pushed_by_training_with_the_commit_of_their_base(hub, pushed_base, tmp_path):
    base = hub.repository("org/base").head
    tune(pushed_base, tmp_path / "out", *PUSH, "--learns", "adapter", "lora", "--lora_rank", 2, "--max_steps", 1)
    files = hub.repository("org/tuned").files()
    assert json.loads(files["adapter_config.json"])["revision"] == base
    card = ModelCard(files["README.md"].decode())
    assert (card.data.library_name, card.data.base_model) == ("peft", ["org/base"])
    assert base in card.text and "processor_config.json" in files and "model.safetensors" not in files


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hub_token", "hf_x"], "never one among the arguments"),
        (["--hub_strategy", "checkpoint"], "must be 'end' or 'every_save', .* pickled, got 'checkpoint'"),
        (["--learns", "lora"], "belong to a base on the Hub, got .*push the base first"),
    ],
)
def test_a_push_that_must_fail_fails_before_training(hub, saved, tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        tune(saved, tmp_path / "out", *PUSH, *words, "--max_steps", 1)
    assert not hub.repositories and not list(tmp_path.glob("out/*.safetensors"))


def test_training_does_not_push_to_a_public_repository_unasked(hub, saved, tmp_path):
    hub.create("org/tuned")
    with pytest.raises(ValueError, match="org/tuned is public"):
        tune(saved, tmp_path / "out", *PUSH, "--max_steps", 1)
    tune(saved, tmp_path / "out", *PUSH, "--max_steps", 1, "--hub_private_repo", "False")
    assert "model.safetensors" in hub.repository("org/tuned").files()
