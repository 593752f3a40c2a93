"""VideoMambas that torch exports, that accelerate keeps on disk, and that PEFT updates."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.testing import assert_close

from hmba_hf import VideoMambaConfig, VideoMambaForVideoClassification


def tiny_classifier(**options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "image_size": 16, "patch_size": 8, "num_frames": 2}
    return VideoMambaForVideoClassification(VideoMambaConfig(**sizes, **options)).eval()


@pytest.mark.parametrize("scan_type", ["spatial_first", "alternating"])
def test_an_exported_model_takes_batches_of_any_size(scan_type):
    model = tiny_classifier(scan_type=scan_type)
    clips = torch.rand(5, 2, 3, 16, 16)
    sizes = {"pixel_values_videos": {0: torch.export.Dim("batch", min=1, max=16)}}
    exported = torch.export.export(model, (), {"pixel_values_videos": clips[:2]}, dynamic_shapes=sizes).module()
    for batch in (clips[:1], clips):
        assert_close(exported(pixel_values_videos=batch).logits, model(batch).logits)


def test_a_model_runs_from_disk(tmp_path):
    model = tiny_classifier(scan_type="spatiotemporal_v2")
    model.save_pretrained(tmp_path)
    places = {"videomamba.embeddings": "cpu", "videomamba.encoder": "disk", "videomamba.norm": "disk"}
    options = {"device_map": {**places, "classifier": "cpu"}, "offload_folder": tmp_path / "offloaded"}
    offloaded = VideoMambaForVideoClassification.from_pretrained(tmp_path, **options)
    assert offloaded.videomamba.norm.weight.is_meta
    clips = torch.rand(2, 2, 3, 16, 16)
    with torch.no_grad():
        assert_close(offloaded(clips).logits, model(clips).logits)


def test_low_rank_updates_of_a_videomambas_projections_load_and_merge(tmp_path):
    tiny_classifier().save_pretrained(tmp_path / "base")
    targets = LoraConfig(r=2, target_modules=["in_proj", "out_proj"], modules_to_save=["classifier"])

    def base():
        return VideoMambaForVideoClassification.from_pretrained(tmp_path / "base")

    clips = torch.rand(2, 2, 3, 16, 16)
    model = get_peft_model(base(), targets)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        model(pixel_values_videos=clips, labels=torch.tensor([0, 1])).loss.backward()
        assert all(parameter.grad is not None for parameter in learned)
        optimizer.step()
    model.save_pretrained(tmp_path / "updates")
    with torch.no_grad():
        wanted = model.eval()(pixel_values_videos=clips).logits
        assert not torch.allclose(base()(clips).logits, wanted, atol=1e-3)
        loaded = PeftModel.from_pretrained(base(), tmp_path / "updates").eval()
        assert_close(loaded(pixel_values_videos=clips).logits, wanted)
        assert_close(loaded.merge_and_unload()(clips).logits, wanted)


@pytest.mark.parametrize("use_dora", [False, True])
def test_low_rank_updates_of_the_patches_act_as_if_merged(use_dora):
    model = tiny_classifier()
    clips = torch.randn(2, model.config.num_frames, 3, *model.config.frame_size)
    settings = LoraConfig(r=2, target_modules=["projection"], use_dora=use_dora, init_lora_weights=False)
    adapted = get_peft_model(model, settings).eval()
    logits = adapted(clips).logits
    assert_close(adapted.merge_and_unload()(clips).logits, logits)
