import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, LlamaConfig, LlamaForCausalLM

from hmba_hf.models.configuration_videomamba import VideoMambaConfig
from hmba_hf.models.modeling_videomamba import VideoMambaForPreTraining
from hmba_hf.training.clip_teacher import ClipTeacher
from tiny_teachers import tiny_tower

CLIPS = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
STUDENT = {"hidden_size": 16, "num_hidden_layers": 2, "image_size": 32, "num_frames": 3, "alignment_size": 20}


def written_out(tower, frame):
    """The residual behind each block for one frame, `(channels, height, width)`, and the last block's attention.

    It is the formula, patch by patch and head by head.
    """
    weights = {name.removeprefix("vision_model."): weight for name, weight in tower.state_dict().items()}
    config = tower.config

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + config.layer_norm_eps).sqrt()
        return centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    kernels = weights["embeddings.patch_embedding.weight"].flatten(1)
    tokens = [weights["embeddings.class_embedding"]]
    for top in range(0, config.image_size, config.patch_size):
        for left in range(0, config.image_size, config.patch_size):
            patch = frame[:, top : top + config.patch_size, left : left + config.patch_size]
            tokens.append(kernels @ patch.flatten())
    x = torch.stack(tokens) + weights["embeddings.position_embedding.weight"]
    x = norm("pre_layrnorm", x)
    residuals = []
    for layer in range(config.num_hidden_layers):
        block = f"encoder.layers.{layer}"
        normed = norm(f"{block}.layer_norm1", x)
        mixed = []
        probabilities = []
        channels = config.hidden_size // config.num_attention_heads
        for head in range(config.num_attention_heads):
            own = slice(head * channels, (head + 1) * channels)
            query = linear(f"{block}.self_attn.q_proj", normed)[:, own]
            key = linear(f"{block}.self_attn.k_proj", normed)[:, own]
            scores = (query @ key.T / channels**0.5).exp()
            probabilities.append(scores / scores.sum(-1, keepdim=True))
            mixed.append(probabilities[-1] @ linear(f"{block}.self_attn.v_proj", normed)[:, own])
        x = x + linear(f"{block}.self_attn.out_proj", torch.cat(mixed, dim=-1))
        inner = linear(f"{block}.mlp.fc1", norm(f"{block}.layer_norm2", x))
        x = x + linear(f"{block}.mlp.fc2", inner * torch.sigmoid(1.702 * inner))
        residuals.append(x)
    return residuals, torch.stack(probabilities).mean(0)[0, 1:]


def wanted_of(tower, clip, layers):
    """The features of a clip, `(k, 1 + t * p, c)`, and its attention, `(t * p,)`, written out."""
    frames = [written_out(tower, frame) for frame in clip]
    projection = tower.state_dict()["visual_projection.weight"]
    features = []
    for layer in layers:
        cls_token = sum(residuals[layer][0] for residuals, _ in frames) / len(frames)
        patches = [residuals[layer][1:] for residuals, _ in frames]
        projected = torch.cat([cls_token[None], *patches]) @ projection.T
        features.append(projected / projected.norm(dim=-1, keepdim=True))
    return torch.stack(features), torch.cat([attention for _, attention in frames])


@pytest.mark.parametrize(
    ("num_layers", "interval", "layers"), [(1, 1, [2]), (1, 9, [2]), (2, 1, [1, 2]), (2, 2, [0, 2])]
)
def test_a_teacher_equals_its_formula_written_out(num_layers, interval, layers):
    tower = tiny_tower().double()
    clips = CLIPS.double()
    output = ClipTeacher(tower, num_layers, interval)(clips)
    wanted = [wanted_of(tower, clip, layers) for clip in clips]
    assert_close(output.features, torch.stack([features for features, _ in wanted], dim=1), atol=1e-6, rtol=0)
    assert_close(output.attention, torch.stack([attention for _, attention in wanted]).float(), atol=1e-6, rtol=0)
    assert output.attention.std() > 0.01


def test_its_attention_is_what_eager_attention_of_transformers_tells():
    tower = tiny_tower()
    output = ClipTeacher(tower)(CLIPS)
    tower.set_attn_implementation("eager")
    told = tower(CLIPS.flatten(0, 1), output_attentions=True).attentions[-1]
    assert_close(output.attention, told.mean(1)[:, 0, 1:].unflatten(0, (2, 3)).flatten(1))


def test_clips_of_another_size_are_resized_bicubically():
    teacher = ClipTeacher(tiny_tower())
    clips = torch.randn(2, 3, 3, 48, 40)
    resized = functional.interpolate(clips.flatten(0, 1), size=(32, 32), mode="bicubic", align_corners=False)
    assert_close(teacher(clips).features, teacher(resized.unflatten(0, (2, 3))).features)


def test_a_teacher_is_frozen_and_passes_no_gradient():
    tower = tiny_tower(attention_dropout=0.5).train()
    teacher = ClipTeacher(tower)
    first = teacher(CLIPS)
    assert not first.features.requires_grad and not first.attention.requires_grad
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert torch.equal(teacher(CLIPS).features, first.features)


def test_a_student_learns_from_what_the_teacher_tells():
    teacher = ClipTeacher(tiny_tower(), num_layers=2)
    config = VideoMambaConfig(**STUDENT, num_alignment_layers=2)
    teacher.check_fits(config)
    loss = VideoMambaForPreTraining(config)(CLIPS, teacher_features=teacher(CLIPS).features).loss
    assert 0 < loss < 4


def test_the_tower_of_a_whole_clip_is_loaded(tmp_path):
    tower = tiny_tower()
    text = CLIPTextConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    clip = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=tower.config.to_dict(), projection_dim=20))
    clip.vision_model.load_state_dict(tower.vision_model.state_dict())
    clip.visual_projection.load_state_dict(tower.visual_projection.state_dict())
    clip.save_pretrained(tmp_path)
    teacher = ClipTeacher.from_pretrained(str(tmp_path))
    assert_close(teacher(CLIPS).features, ClipTeacher(tower)(CLIPS).features)


def test_a_checkpoint_that_is_no_clip_or_lacks_a_weight_is_refused(tmp_path):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=9, **sizes)).save_pretrained(tmp_path / "llama")
    with pytest.raises(ValueError, match="teacher must be a CLIP with a vision tower, got 'llama'"):
        ClipTeacher.from_pretrained(str(tmp_path / "llama"))
    tower = tiny_tower()
    weights = {name: weight for name, weight in tower.state_dict().items() if "visual_projection" not in name}
    tower.save_pretrained(tmp_path / "bare", state_dict=weights)
    with pytest.raises(ValueError, match="every weight that is read.* got none for visual_projection.weight"):
        ClipTeacher.from_pretrained(str(tmp_path / "bare"))


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"image_size": 48}, r"patches of a frame must be the teacher's, \(2, 2\), got \(3, 3\) of the student"),
        ({"image_size": [32, 16]}, r"patches of a frame must be the teacher's, \(2, 2\), got \(2, 1\)"),
        ({"alignment_size": 512}, "alignment_size must be the teacher's, 20, got 512 of the student"),
        ({"num_alignment_layers": 2}, "num_alignment_layers must be the teacher's, 1, got 2"),
        ({"num_channels": 1}, "num_channels must be the teacher's, 3, got 1"),
        ({"num_frames": 4, "tubelet_size": 2}, "tubelet_size must be 1, since the teacher sees single frames, got 2"),
    ],
)
def test_a_student_that_does_not_fit_is_refused(student, message):
    with pytest.raises(ValueError, match=message):
        ClipTeacher(tiny_tower()).check_fits(VideoMambaConfig(**{**STUDENT, **student}))


def test_a_tower_of_another_width_and_size_fits_where_its_grid_and_channels_do():
    teacher = ClipTeacher(tiny_tower(hidden_size=32, image_size=42, patch_size=14))
    config = VideoMambaConfig(**{**STUDENT, "image_size": 48})
    teacher.check_fits(config)
    clips = torch.randn(1, 3, 3, 48, 48)
    assert teacher(clips).features.shape == (1, 1, 28, 20)


@pytest.mark.parametrize(("num_layers", "interval"), [(0, 1), (1, 0), (4, 1), (2, 3)])
def test_layers_that_a_tower_lacks_are_refused(num_layers, interval):
    with pytest.raises(ValueError, match=f"within the teacher's 3 layers, got {num_layers} and {interval}"):
        ClipTeacher(tiny_tower(), num_layers, interval)


def test_the_key_of_a_teacher_changes_with_weights_layers_and_dtype():
    tower = tiny_tower()
    keys = [
        ClipTeacher(tower).key(torch.float32),
        ClipTeacher(tower).key(torch.bfloat16),
        ClipTeacher(tower, num_layers=2).key(torch.float32),
        ClipTeacher(tiny_tower()).key(torch.float32),
    ]
    assert len({str(key) for key in keys}) == 4
    assert ClipTeacher(tower).key(torch.float32) == keys[0]
