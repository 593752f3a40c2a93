"""A model on the Hub: each argument of saving with a push, of loading it, its generation config and its updates."""

import pytest
import torch
from peft import LoraConfig
from transformers import GenerationConfig

from hmba_hf import HMBAForConditionalGeneration
from repositories import RegularFile
from tiny_models import assert_equal_weights, lively_model

NAME = "org/tiny"


def load(**options):
    return HMBAForConditionalGeneration.from_pretrained(NAME, **options)


def test_a_model_that_is_saved_may_be_pushed_at_once(hub, tmp_path):
    model = lively_model()
    model.save_pretrained(
        tmp_path / "tiny", push_to_hub=True, max_shard_size="40KB", commit_message="Mine", tags=["night"]
    )
    (repository,) = hub.repositories.values()
    name = repository.id
    assert name.endswith("/tiny"), "the name of the folder is that of the repository"
    assert repository.private and repository.titles() == ["Mine", "initial commit"]
    files = repository.files()
    assert "night" in files["README.md"].decode() and "modeling_hmba.py" in files
    assert len([file for file in files if file.endswith(".safetensors")]) > 2
    assert_equal_weights(HMBAForConditionalGeneration.from_pretrained(name), model)
    assert_equal_weights(HMBAForConditionalGeneration.from_pretrained(tmp_path / "tiny"), model)


def test_a_push_of_what_is_saved_keeps_to_the_rules_of_pushes(hub, tmp_path):
    model = lively_model()
    hub.create("org/open")
    with pytest.raises(ValueError, match="org/open is public: name another repository"):
        model.save_pretrained(tmp_path, push_to_hub=True, repo_id="org/open")
    assert "model.safetensors" not in hub.repository("org/open").files()
    model.save_pretrained(tmp_path, push_to_hub=True, repo_id="org/open", private=False)
    assert "model.safetensors" in hub.repository("org/open").files()
    for refused in ({"token": "hf_x"}, {"create_pr": True}):
        with pytest.raises(ValueError, match=f"a push must be to a branch, with the token of .*{min(refused)}"):
            model.save_pretrained(tmp_path / "refused", push_to_hub=True, repo_id=NAME, **refused)
    assert not (tmp_path / "refused").exists(), "what cannot be pushed is refused before anything is written"
    for part in ({"variant": "night"}, {"state_dict": model.state_dict()}, {"distributed_checkpoint": True}):
        with pytest.raises(ValueError, match=f"must push the whole model as it is, got .*{min(part)}"):
            model.save_pretrained(tmp_path, push_to_hub=True, repo_id=NAME, **part)
    with pytest.raises(ValueError, match="options of save_pretrained must be .* \\['repo'\\]"):
        model.save_pretrained(tmp_path, push_to_hub=True, repo=NAME)
    model.save_pretrained(tmp_path, is_main_process=False, push_to_hub=True, repo_id=NAME)
    assert NAME not in {repository.id for repository in hub.repositories.values()}


def test_the_code_of_a_checkpoint_alone_pushes_what_is_saved_in_private_too(hub, tmp_path, monkeypatch):
    monkeypatch.delattr(
        "hmba_hf.models.pretrained_adapter.AdapterPreTrainedModel.push_to_hub"
    )  # what the package adds
    for number, private in enumerate(({}, {"private": None}, {"private": False})):
        name = f"org/tiny-{number}"
        lively_model().save_pretrained(tmp_path, push_to_hub=True, repo_id=name, **private)
        assert hub.repository(name).private == (private.get("private") is not False)
        assert {"model.safetensors", "modeling_hmba.py"} <= hub.repository(name).files().keys()


def put(hub, folder, place="", branch="main"):
    """Put the files of a folder into the repository, into a folder of it."""
    repository = hub.repository(NAME)
    repository.branches.setdefault(branch, repository.head)
    files = {f"{place}{path.name}": RegularFile(path.read_bytes()) for path in folder.iterdir() if path.is_file()}
    repository.commit(branch, "Upload", "", "name", {**repository.find(branch).files, **files})


@pytest.fixture
def published(hub, tmp_path):
    """A private repository whose models, and what they generate by, tell from where they come."""
    hub.create(NAME, private=True)
    for count, (place, branch) in enumerate((("", "main"), ("", "night"), ("inside/", "main")), start=2):
        model = lively_model(seed=count)
        model.generation_config = GenerationConfig(max_new_tokens=count)
        model.save_pretrained(tmp_path / str(count))
        put(hub, tmp_path / str(count), place, branch)


def test_a_model_and_how_it_generates_come_from_where_the_options_say(hub, published, tmp_path):
    def found(**options):
        model = load(**options)
        count = model.generation_config.max_new_tokens
        assert_equal_weights(model, HMBAForConditionalGeneration.from_pretrained(tmp_path / str(count)))
        return count

    with pytest.raises(OSError, match="couldn't find them in the cached files"):
        found(local_files_only=True)
    with pytest.raises(OSError, match=NAME):
        found(token=hub.other_token)
    assert found(token=hub.token, cache_dir=tmp_path / "mine") == 2
    for file in ("model.safetensors", "generation_config.json"):
        assert any((tmp_path / "mine").rglob(file)) and not any((tmp_path / "cache").rglob(file))
    assert found(revision="night") == 3 and found(subfolder="inside") == 4 and found(proxies={}) == 2

    def downloads(**options):
        before = len(hub.requests)
        assert found(**options) == 2
        made = [request for request in hub.requests[before:] if request.route == "resolve" and request.method == "GET"]
        return {request.path.rpartition("/")[2] for request in made}

    assert not downloads() & {"model.safetensors", "generation_config.json"}
    assert downloads(force_download=True) >= {"model.safetensors", "generation_config.json"}
    before = len(hub.requests)
    assert found(local_files_only=True) == 2 and len(hub.requests) == before


def test_updates_on_the_hub_are_never_pickles(hub, published, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.peft.check_peft_version", lambda min_version: None)
    made = HMBAForConditionalGeneration.from_pretrained(tmp_path / "2")
    made.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    made.save_pretrained(tmp_path / "updates")
    weights = made.get_adapter_state_dict()
    put(hub, tmp_path / "updates", "updates/")
    model = load()
    model.load_adapter(NAME, adapter_kwargs={"subfolder": "updates"})
    found = model.get_adapter_state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())

    torch.save(weights, tmp_path / "updates" / "adapter_model.bin")
    (tmp_path / "updates" / "adapter_model.safetensors").unlink()
    put(hub, tmp_path / "updates", "pickled/")
    with pytest.raises(OSError, match="org/tiny must have its low-rank updates in adapter_model.safetensors"):
        load().load_adapter(NAME, adapter_kwargs={"subfolder": "pickled"})
    put(hub, tmp_path / "updates")
    with pytest.raises(OSError, match="org/tiny must have its low-rank updates in adapter_model.safetensors"):
        load()
    assert not any((tmp_path / "cache").rglob("adapter_model.bin"))
