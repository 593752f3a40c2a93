"""Checkpoints by their names on the Hub: without this package, by revision, offline, and refused."""

import json
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi, snapshot_download
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from hmba_hf import HMBAForConditionalGeneration, VideoTextToTextPipeline
from tiny_models import lively_model
from tiny_processors import tiny_processor
from without_package import WITHOUT_PACKAGE

NAME = "org/hmba-tiny"
QUESTION = "Which object is the risk?"
FRAMES = [Image.new("RGB", (40, 20), (0, 40 * i, 80)) for i in range(3)]
CARD = "---\nlibrary_name: transformers\npipeline_tag: video-text-to-text\nlicense: mit\n---\n# Random weights\n"

START = (
    WITHOUT_PACKAGE
    + """
import json
sys.modules["numba"] = None  # it would compile its kernel for each copy of the code
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

name, question, *revisions = sys.argv[1:]
"""
)
REFUSED = """
for cls in (AutoModelForImageTextToText, AutoProcessor):
    try:
        cls.from_pretrained(name)
    except ValueError as error:
        assert "contains custom code" in str(error) and "trust_remote_code=True" in str(error), error
    else:
        raise AssertionError(f"{cls.__name__} has run the code of {name} unasked")
assert not [module for module in sys.modules if module.startswith("transformers_modules.")]
print()  # after the question whether the code may run
"""
# Prints a JSON object: logits by revision, and the pipeline's answers.
PULL = """
frames = [Image.new("RGB", (40, 20), (0, 40 * i, 80)) for i in range(3)]
chat = [{"role": "user", "content": [{"type": "video", "video": frames}, {"type": "text", "text": question}]}]
options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
found = {}
for revision in revisions:
    trust = {"trust_remote_code": True, "revision": revision}
    model = AutoModelForImageTextToText.from_pretrained(name, **trust)
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    inputs = AutoProcessor.from_pretrained(name, **trust).apply_chat_template(chat, **options)
    with torch.no_grad():
        found[revision] = model(**inputs).logits[0, -1].tolist()
pipe = pipeline("video-text-to-text", model=name, trust_remote_code=True, device="cpu")
found["answer"] = pipe(videos=frames, text=question, max_new_tokens=6)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Two models of one architecture, saved to folders by nothing but `save_pretrained`."""
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        lively_model(seed=seed).save_pretrained(folder)
        tiny_processor().save_pretrained(folder)
        (folder / "README.md").write_text(CARD)
    return folders


@pytest.fixture
def published(hub, bundles):
    """A repository whose tag `v1` is the first model, and whose `main` and branch `trial` are the second."""
    api = HfApi()
    api.create_repo(NAME, private=True)
    first = api.upload_folder(repo_id=NAME, folder_path=bundles[0]).oid
    api.create_tag(NAME, tag="v1")
    second = api.upload_folder(repo_id=NAME, folder_path=bundles[1]).oid
    api.create_branch(NAME, branch="trial")
    return SimpleNamespace(first=first, second=second)


@pytest.fixture
def one_thread(monkeypatch):
    """The arithmetic of the fresh processes: one thread, and the portable scan."""
    monkeypatch.setenv("HMBA_SCAN_BACKEND", "portable")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def logits(name, **options):
    model, processor = (cls.from_pretrained(name, **options) for cls in (AutoModelForImageTextToText, AutoProcessor))
    assert type(model) is HMBAForConditionalGeneration
    chat = [{"role": "user", "content": [{"type": "video", "video": FRAMES}, {"type": "text", "text": QUESTION}]}]
    template = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    with torch.no_grad():
        return model(**processor.apply_chat_template(chat, **template)).logits[0, -1]


def test_a_checkpoint_pulled_without_the_package_gives_its_logits_bit_for_bit(
    hub, published, bundles, run, one_thread
):
    wanted = [logits(folder) for folder in bundles]
    assert not torch.equal(*wanted)
    revisions = {"trial": 1, "v1": 0, published.second[:10]: 1}
    done = run(START + REFUSED + PULL, NAME, QUESTION, *revisions)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for revision, index in revisions.items():
        assert torch.equal(torch.tensor(found[revision]), wanted[index]), revision
    assert found["answer"] == pipeline("video-text-to-text", model=str(bundles[1]), device="cpu")(
        videos=FRAMES, text=QUESTION, max_new_tokens=6
    )

    # What has been pulled is there without a network and without a token.
    asked = len(hub.requests)
    done = run(START + PULL, NAME, QUESTION, "trial", "v1", HF_HUB_OFFLINE="1", HF_TOKEN=None)
    assert done.returncode == 0, done.stderr
    offline = json.loads(done.stdout.splitlines()[-1])
    assert all(offline[key] == found[key] for key in ("trial", "v1", "answer"))
    assert len(hub.requests) == asked


def test_with_the_package_a_name_is_enough(hub, published, bundles):
    assert torch.equal(logits(NAME), logits(bundles[1]))
    assert torch.equal(logits(NAME, revision="v1"), logits(bundles[0]))
    by_task = pipeline("video-text-to-text", model=NAME, device="cpu")
    by_card = pipeline(model=NAME, device="cpu")
    assert type(by_task) is type(by_card) is VideoTextToTextPipeline
    assert by_task(videos=FRAMES, text=QUESTION, max_new_tokens=6) == by_card(
        videos=FRAMES, text=QUESTION, max_new_tokens=6
    )


def test_a_pin_holds_when_the_branch_moves(hub, published, bundles, tmp_path):
    pinned = logits(NAME, revision=published.second)
    HfApi().upload_folder(repo_id=NAME, folder_path=bundles[0])
    assert torch.equal(logits(NAME), logits(bundles[0])) and not torch.equal(logits(NAME), pinned)
    assert torch.equal(logits(NAME, revision=published.second), pinned)
    assert torch.equal(logits(NAME, revision=published.second, cache_dir=tmp_path), pinned)


@pytest.mark.parametrize("transport", ["lfs", "xet"])
def test_fewer_shards_leave_none_of_the_old(hub, transport, bundles, tmp_path):
    model, api = lively_model(seed=2), HfApi()
    for folder, size in (("many", "100KB"), ("one", "1GB")):
        model.save_pretrained(tmp_path / folder, max_shard_size=size)
        tiny_processor().save_pretrained(tmp_path / folder)
    api.create_repo(NAME)
    stored = []
    for folder in ("many", "one"):
        api.upload_folder(repo_id=NAME, folder_path=tmp_path / folder, delete_patterns="*.safetensors*")
        stored.append({path for path in hub.repository(NAME).files() if ".safetensors" in path})
        assert torch.equal(logits(NAME), logits(tmp_path / folder))
    assert len(stored[0]) > 2 and "model.safetensors.index.json" in stored[0]
    assert stored[1] == {"model.safetensors"}
    assert len(hub.asked("commit")) == 2, "what is new and what is gone are one commit"


def test_a_private_or_gated_checkpoint_says_what_it_wants(hub, published, tmp_path):
    for token in (hub.other_token, False):
        with pytest.raises(OSError, match="private repository.*token") as error:
            AutoModelForImageTextToText.from_pretrained(NAME, token=token, cache_dir=tmp_path)
        assert hub.other_token not in str(error.value)
    AutoModelForImageTextToText.from_pretrained(NAME, token=hub.read_token, cache_dir=tmp_path / "own")

    hub.repository(NAME).private = False
    hub.gate(NAME)
    for token in (hub.other_token, False):
        with pytest.raises(OSError, match="(?s)gated repo.*have access to it"):
            AutoModelForImageTextToText.from_pretrained(NAME, token=token, cache_dir=tmp_path)
    hub.gate(NAME, granted=("other",))
    AutoModelForImageTextToText.from_pretrained(NAME, token=hub.other_token, cache_dir=tmp_path)


def test_what_does_not_exist_says_so(hub, published):
    with pytest.raises(OSError, match="org/none is not a local folder and is not a valid model identifier"):
        AutoModelForImageTextToText.from_pretrained("org/none")
    with pytest.raises(OSError, match="v9 is not a valid git identifier"):
        AutoModelForImageTextToText.from_pretrained(NAME, revision="v9")


def test_a_snapshot_without_a_network_is_the_last_one_pulled(hub, published, monkeypatch):
    folder = snapshot_download(NAME)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert snapshot_download(NAME) == folder
    with pytest.raises(OSError, match="couldn't connect|offline"):
        AutoModelForImageTextToText.from_pretrained("org/never-pulled")
    assert len(hub.requests) == asked


@pytest.mark.parametrize("held", ['{"metadata": {}, "weight_map": {}}', "[]", "{"])
def test_an_index_of_no_weights_is_refused_by_its_name(hub, tmp_path, held):
    lively_model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(held)
    HfApi().create_repo(NAME)
    HfApi().upload_folder(repo_id=NAME, folder_path=tmp_path, allow_patterns="*.json")
    with pytest.raises(ValueError, match=f"{index.name} of {NAME} must"):
        AutoModelForImageTextToText.from_pretrained(NAME)
