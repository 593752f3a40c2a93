"""A run on a vision-language model ends on the Hub, and its results follow."""

from huggingface_hub import HfApi, ModelCard
from transformers import AutoModelForImageTextToText, AutoProcessor

from hmba_hf.data.micro_world.world import MicroWorld
from hmba_hf.tasks.answering.generation import answer_samples
from tiny_bases import tune
from tiny_models import assert_equal_weights
from tiny_runs import evaluate, run_example
from tiny_vlm_bases import save_vlm

PUSH = ["--push_to_hub", "True", "--hub_model_id", "org/tuned", "--eval_split", "test", "--max_new_tokens", "3"]


def test_a_tuned_vision_language_model_comes_back_from_the_hub_with_its_card_and_results(hub, tmp_path):
    save_vlm("qwen3_vl", tmp_path / "base")
    HfApi().create_repo("org/vlm")
    HfApi().upload_folder(repo_id="org/vlm", folder_path=tmp_path / "base")
    trainer = tune("org/vlm", tmp_path / "out", *PUSH, "--boxes_dialect", "unit_square", "--max_steps", 2)
    repository = hub.repository("org/tuned")
    code = {"modeling_hmba_vlm.py", "processing_hmba_vlm.py", "batching_hmba.py"}
    assert repository.private and {"example.png", *code} <= repository.files().keys()
    model = AutoModelForImageTextToText.from_pretrained("org/tuned")
    processor = AutoProcessor.from_pretrained("org/tuned")
    assert_equal_weights(trainer.model, model)
    clips = [MicroWorld()[0]]
    assert ModelCard.load("org/tuned").data.base_model == ["org/vlm"]
    wanted = answer_samples(trainer.model.eval(), trainer.processing_class, clips, max_new_tokens=3)
    assert answer_samples(model, processor, clips, max_new_tokens=3) == wanted
    evaluate("org/tuned", tmp_path / "test")
    run_example("push.py", "--model", "org/tuned", "--repo_id", "org/again", "--results", tmp_path / "test")
    card = ModelCard.load("org/again")
    assert "A vision-language model, `qwen3_vl`" in card.text and "Acc@0.5" in card.text
    assert {result.metric_type for result in card.data.eval_results} >= {"mean_iou", "bleu"}
    assert_equal_weights(model, AutoModelForImageTextToText.from_pretrained("org/again"))
