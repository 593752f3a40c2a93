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
from transformers import AutoModelForImageTextToText, pipeline

from hmba_hf import HMBAProcessor
from hmba_hf.data.micro_world.parquet import write_video
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.hub import CardDetails, push_checkpoint
from hmba_hf.training import LoraSettings, learn
from hmba_hf.training.low_rank import LowRankModel
from tiny_models import assert_equal_weights
from tiny_runs import run_example

both_transports = pytest.mark.parametrize("transport", ["lfs", "xet"])
SHARDS = {"max_shard_size": "40KB"}


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "dashcam.mp4"
    write_video(path, [*MicroWorld(MicroWorldConfig(frame_size=32, num_frames=20), "test", 1)[0].frames] * 3)
    return path


@both_transports
def test_a_checkpoint_is_one_commit_and_the_next_pins_it_in_the_card(hub, parts):
    commit = push_checkpoint(*parts, "org/tiny", card=CardDetails(license="mit"), **SHARDS)
    repository = hub.repository("org/tiny")
    assert repository.private and repository.titles() == ["Pin the revision", "Upload model", "initial commit"]
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
    assert repository.titles()[:3] == ["Pin the revision", "Upload model", "Upload notes.md with huggingface_hub"]
    assert changed.oid in repository.files()["README.md"].decode()
    push_checkpoint(*parts, "org/tiny", card=CardDetails(license="mit"), **SHARDS)
    assert repository.titles()[:3] == ["Pin the revision", "Upload model", "Pin the revision"], "another card"


def test_a_card_that_was_left_without_its_pin_gets_it_by_the_next_push(hub, parts):
    hub.faults.fail("commit", 403, skip=1)
    with pytest.warns(UserWarning, match="its card does not pin it: .*403"):
        commit = push_checkpoint(*parts, "org/tiny")
    repository = hub.repository("org/tiny")
    assert repository.head == commit.oid
    assert push_checkpoint(*parts, "org/tiny").oid == commit.oid
    assert repository.titles() == ["Pin the revision", "Upload model", "initial commit"]


def test_the_models_own_push_to_hub_ends_in_the_same_place_with_the_same_card(hub, parts):
    model, processor = parts
    processor.push_to_hub("org/own", private=True)
    commit = model.push_to_hub("org/own", commit_message="Mine", tags="night", max_shard_size="40KB")
    push_checkpoint(model, processor, "org/twin", card=CardDetails(tags=["night"]), **SHARDS)
    own, other = hub.repository("org/own"), hub.repository("org/twin")
    assert own.private and own.titles()[:2] == ["Pin the revision", "Mine"]
    files, wanted = own.files(), other.files()
    assert {name: files[name] for name in files if name != "README.md"} == {
        name: wanted[name] for name in wanted if name != "README.md"
    }
    card, named = files["README.md"].decode(), wanted["README.md"].decode()
    (pinned,) = re.findall('"([0-9a-f]{40})"', named)
    assert card == named.replace(pinned, commit.oid).replace("twin", "own")
    assert HMBAProcessor.from_pretrained("org/own", revision=commit.oid)

    first = model.push_to_hub("org/model_first")
    assert hub.repository("org/model_first").titles() == ["Upload model", "initial commit"], "no processor, no pin"
    processor.push_to_hub("org/model_first")
    assert pipeline("video-text-to-text", model="org/model_first", device="cpu")
    assert model.push_to_hub("org/model_first").oid != first.oid
    assert hub.repository("org/model_first").titles()[0] == "Pin the revision"


@pytest.mark.parametrize("options", [{"token": "hf_x"}, {"create_pr": True}, {"commit_description": "Why"}])
def test_what_a_push_does_not_offer_is_refused_before_anything_happens(hub, parts, options):
    with pytest.raises(
        ValueError, match=f"a push must be to a branch, with the token of .*, got .*{min(options)}"
    ) as error:
        parts[0].push_to_hub("org/tiny", **options)
    assert "hf_x" not in str(error.value) and not hub.repositories
    with pytest.raises(TypeError, match=r"options of a commit must be of \['message', .*, got \['branch'\]"):
        push_checkpoint(*parts, "org/tiny", branch="next")
    assert not hub.repositories


def test_of_two_pushes_at_once_one_is_whole_and_the_other_hears_of_it(hub, parts, stored_model):
    push_checkpoint(*parts, "org/tiny")
    other = AutoModelForImageTextToText.from_pretrained(stored_model)
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
    with pytest.raises(ValueError, match="org/open is public: name another repository, or allow a public model"):
        push_checkpoint(*parts, "org/open")
    assert hub.repository("org/open").head == before
    push_checkpoint(*parts, "org/open", private=False)
    push_checkpoint(*parts, "org/new", private=False)
    assert not hub.repository("org/open").private and not hub.repository("org/new").private


def test_a_push_goes_to_a_branch_that_is_asked_for(hub, parts):
    commit = push_checkpoint(*parts, "org/tiny", revision="next", message="Try it")
    repository = hub.repository("org/tiny")
    assert repository.titles("next")[:2] == ["Pin the revision", "Try it"] and repository.titles() == [
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
    with pytest.warns(UserWarning, match="its card does not pin it: .*somebody else has pushed"):
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


def test_a_run_reaches_the_card_by_command(hub, stored_model, stored_run, tmp_path, capsys):
    words = ["--model", stored_model, "--repo_id", "org/tiny", "--license", "mit", "--results", stored_run]
    Image.new("RGB", (8, 8)).save(tmp_path / "answer.png")
    run_example("push.py", *words, "--picture", tmp_path / "answer.png")
    assert f"pushed: {hub.url}/org/tiny/commit/" in capsys.readouterr().out
    data = HfApi().model_info("org/tiny").card_data
    metrics = json.loads((stored_run / "metrics.json").read_text())
    assert {one.metric_value for one in data.eval_results} <= {*metrics["scores"].values()}
    assert "example.png" in hub.repository("org/tiny").files()


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
    with pytest.raises(OSError, match="weights must be in safetensors, for H-MBA never loads pickles"):
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
