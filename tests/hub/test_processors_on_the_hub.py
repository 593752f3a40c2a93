"""A processor, a video processor and a pipeline on the Hub: each argument of pushing, saving and loading."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoProcessor, pipeline
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from hmba_hf import HMBAProcessor, HMBAVideoProcessor, VideoTextToTextPipeline
from repositories import RegularFile
from tiny_models import tiny_model
from tiny_processors import tiny_processor

NAME = "org/tiny"
CARD = b"---\nlicense: mit\ntags: [driving]\n---\n# Mine\n"
LOADERS = {
    "processor": lambda **options: HMBAProcessor.from_pretrained(NAME, **options).video_processor.num_frames,
    "auto": lambda **options: AutoProcessor.from_pretrained(NAME, **options).video_processor.num_frames,
    "video": lambda **options: HMBAVideoProcessor.from_pretrained(NAME, **options).num_frames,
    "auto_video": lambda **options: AutoVideoProcessor.from_pretrained(NAME, **options).num_frames,
    "dict": lambda **options: HMBAProcessor.get_processor_dict(NAME, **options)[0]["video_processor"]["num_frames"],
    "video_dict": lambda **options: HMBAVideoProcessor.get_video_processor_dict(NAME, **options)[0]["num_frames"],
    "image_dict": lambda **options: HMBAVideoProcessor.get_image_processor_dict(NAME, **options)[0]["num_frames"],
}


def part(kind):
    """A processor, or the video processor alone."""
    processor = tiny_processor()
    return processor if kind == "processor" else processor.video_processor


def whole_pipeline():
    return VideoTextToTextPipeline(model=tiny_model(), processor=tiny_processor(), device="cpu")


both_parts = pytest.mark.parametrize("kind", ["processor", "video"])


@pytest.fixture
def published(hub, tmp_path):
    """A private repository with a processor of 5 frames on `main` and of 9 on `night`, and an old file of pixels."""
    repository = hub.create(NAME, private=True)
    for branch, count in (("main", 5), ("night", 9)):
        processor = tiny_processor()
        processor.video_processor.num_frames = count
        processor.save_pretrained(tmp_path / branch)
        files = {path.name: RegularFile(path.read_bytes()) for path in (tmp_path / branch).iterdir()}
        files["preprocessor_config.json"] = RegularFile(json.dumps({"num_frames": count}).encode())
        repository.branches.setdefault(branch, repository.head)
        repository.commit(branch, "Upload processor", "", "name", files)
    return repository


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_a_processor_is_downloaded_as_its_options_say(hub, published, load, tmp_path):
    with pytest.raises((OSError, KeyError)):  # `get_processor_dict` finds an empty one
        load(local_files_only=True)
    assert not hub.asked("resolve"), "nothing may be downloaded"
    with pytest.raises(OSError, match=NAME):
        load(token=hub.other_token)
    assert load(token=hub.token, cache_dir=tmp_path / "mine") == 5
    assert any((tmp_path / "mine").rglob("*processor_config.json"))
    assert not [path for path in (tmp_path / "cache").rglob("*_config.json") if path.is_file()]
    assert load(revision="night") == 9 == load(revision=published.branches["night"])

    def downloads(**options):
        before = len(hub.requests)
        assert load(**options) == 5
        made = [request for request in hub.requests[before:] if request.route == "resolve"]
        return [request for request in made if request.method == "GET" and request.path.endswith("_config.json")]

    assert downloads() and not downloads()
    assert downloads(force_download=True)
    before = len(hub.requests)
    assert load(local_files_only=True) == 5 and len(hub.requests) == before


@both_parts
def test_a_processor_is_pushed_as_its_options_say(hub, kind):
    made = part(kind)
    made.push_to_hub(NAME)
    repository = hub.repository(NAME)
    assert repository.private and repository.titles() == ["Upload processor", "initial commit"]
    first = repository.head
    made.num_frames = made.patch_size = 7
    made.push_to_hub(
        NAME, revision="night", commit_message="Seven", commit_description="More of them", tags=["night", "rain"]
    )
    made_at_night = repository.find("night")
    assert (made_at_night.title, made_at_night.message) == ("Seven", "More of them")
    card = ModelCard(repository.files("night")["README.md"].decode())
    assert card.data.tags == ["night", "rain"] and not card.text.strip()
    assert repository.head == first and "README.md" not in repository.files()

    proposed = made.push_to_hub(NAME, create_pr=True, tags="night")
    assert proposed.pr_revision == "refs/pr/1" and repository.head == first
    name = "num_frames" if kind == "video" else "patch_size"
    loaded = type(made).from_pretrained(NAME, revision="refs/pr/1")
    assert getattr(loaded, name) == 7 != getattr(type(made).from_pretrained(NAME), name)

    made.push_to_hub(NAME, revision="refs/pr/1", commit_message="Once more", tags="rain")
    assert repository.titles("refs/pr/1")[0] == "Once more" and repository.head == first
    assert ModelCard(repository.files("refs/pr/1")["README.md"].decode()).data.tags == ["night", "rain"]

    made.push_to_hub("org/open", private=False)
    assert not hub.repository("org/open").private
    made.push_to_hub("other/tiny", token=hub.other_token, tags=["mine"])
    assert hub.repository("other/tiny").find("main").author == "other"
    assert "mine" in hub.repository("other/tiny").files()["README.md"].decode()


@both_parts
def test_a_push_of_a_processor_keeps_what_else_is_there(hub, kind):
    repository = hub.create(NAME, private=True)
    old = {"README.md": CARD, "model.safetensors": b"weights", "decoding_gone.py": b"old = True"}
    repository.commit("main", "Begin", "", "name", {path: RegularFile(content) for path, content in old.items()})
    part(kind).push_to_hub(NAME, tags="night")
    files = repository.files()
    assert files["model.safetensors"] == b"weights"
    card = ModelCard(files["README.md"].decode())
    assert card.data.tags == ["driving", "night"] and card.data.license == "mit" and card.text.strip() == "# Mine"
    assert ("decoding_gone.py" in files) == (kind == "video"), "code of an older processor must go"
    head = repository.head
    part(kind).push_to_hub(NAME, tags=["night"])
    assert repository.head == head, "what is there already makes no commit"


@both_parts
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_shard_size": "1GB"}, ValueError, "max_shard_size must be absent, since a processor has no weights"),
        ({"create_pr": True, "revision": "night"}, ValueError, "revision must be absent with create_pr, got 'night'"),
        ({"branch": "night"}, TypeError, r"got \['branch'\]"),
    ],
)
def test_what_a_push_of_a_processor_has_not_is_refused_before_anything_happens(hub, kind, options, error, message):
    with pytest.raises(error, match=message):
        part(kind).push_to_hub(NAME, **options)
    assert not hub.repositories


@both_parts
def test_a_processor_gets_into_a_public_repository_only_if_that_is_said(hub, kind):
    repository = hub.create(NAME)
    with pytest.raises(ValueError, match=f"{NAME} is public"):
        part(kind).push_to_hub(NAME)
    with pytest.raises(HfHubHTTPError, match="403"):
        part(kind).push_to_hub(NAME, private=False, token=hub.other_token)
    assert repository.titles() == ["initial commit"]
    part(kind).push_to_hub(NAME, private=False)
    assert repository.titles() == ["Upload processor", "initial commit"]


@pytest.mark.parametrize("as_path", [Path, str], ids=["path", "text"])
@pytest.mark.parametrize("kind", ["processor", "video", "pipeline"])
def test_what_is_saved_is_pushed_if_that_is_asked_for(hub, kind, as_path, tmp_path):
    made = whole_pipeline() if kind == "pipeline" else part(kind)
    made.save_pretrained(as_path(tmp_path / "plain"))
    assert not hub.repositories
    made.save_pretrained(as_path(tmp_path / "tiny"), push_to_hub=True)
    own = hub.repository("name/tiny")
    options = {"repo_id": NAME, "commit_message": "Mine", "tags": ["rain"], "revision": "night", "private": False}
    made.save_pretrained(as_path(tmp_path / "tiny"), push_to_hub=True, **options)
    other = hub.repository(NAME)
    assert own.private and not other.private and "Mine" in other.titles("night")
    assert "rain" in other.files("night")["README.md"].decode()
    saved = {path.name: path.read_bytes() for path in (tmp_path / "tiny").iterdir() if path.is_file()}
    for files in (own.files(), other.files("night")):
        assert saved == {name: files[name] for name in saved}


@both_parts
def test_an_option_of_saving_that_nothing_reads_is_refused(kind, tmp_path):
    for options in ({"push_to_hbu": True}, {"repo_id": NAME}, {"push_to_hub": True, "repo": NAME}):
        with pytest.raises(ValueError, match="options of save_pretrained must be push_to_hub=True and with it .*got"):
            part(kind).save_pretrained(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_a_pipeline_is_pushed_as_its_model_and_its_processor_are(hub):
    made = whole_pipeline()
    made.push_to_hub(NAME, commit_message="Mine", tags=["night"], max_shard_size="40KB")
    repository = hub.repository(NAME)
    assert repository.private and repository.titles() == ["Pin the revision", "Mine", "initial commit"]
    files = repository.files()
    assert "night" in ModelCard(files["README.md"].decode()).data.tags
    assert "model.safetensors.index.json" in files, "it must come in shards"
    assert pipeline("video-text-to-text", model=NAME, device="cpu").processor.video_processor.num_frames == 5

    made.push_to_hub(NAME, revision="night")
    assert "Upload model" in repository.titles("night")
    made.push_to_hub("org/open", private=False)
    assert not hub.repository("org/open").private
    with pytest.raises(ValueError, match="org/open is public"):
        made.push_to_hub("org/open")


@pytest.mark.parametrize("options", [{"token": "hf_x"}, {"create_pr": True}, {"commit_description": "Why"}])
def test_what_a_push_of_a_pipeline_does_not_offer_is_refused(hub, options, tmp_path):
    made, message = whole_pipeline(), f"a push must be to a branch, with the token of .*, got .*{min(options)}"
    with pytest.raises(ValueError, match=message):
        made.push_to_hub(NAME, **options)
    with pytest.raises(ValueError, match=message):
        made.save_pretrained(tmp_path / "tiny", push_to_hub=True, **options)
    assert not hub.repositories and not (tmp_path / "tiny").exists()


@pytest.mark.parametrize("options", [{"create_pr": True, "revision": "night"}, {"max_shard_size": "1GB"}])
def test_what_a_push_of_a_processor_refuses_is_refused_before_it_is_saved(hub, options, tmp_path):
    processor = whole_pipeline().processor
    for saved in (processor, processor.video_processor):
        with pytest.raises(ValueError, match="must be absent"):
            saved.save_pretrained(tmp_path / "tiny", push_to_hub=True, **options)
    assert not hub.repositories and not (tmp_path / "tiny").exists()
