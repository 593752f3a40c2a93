"""A VideoMamba and a CLIP on disk, small enough to pre-train in a second, and a way to do it inside this process."""

import torch

from hmba_hf.models.configuration_videomamba import VideoMambaConfig
from hmba_hf.models.modeling_videomamba import VideoMambaForPreTraining
from hmba_hf.models.video_processing_videomamba import VideoMambaVideoProcessor
from hmba_hf.tasks.pretraining.arguments import parse_arguments
from hmba_hf.tasks.pretraining.run import pretrain
from tiny_teachers import save_tiny_teacher

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "image_size": 64, "num_frames": 3, "alignment_size": 20}


def tiny_processor():
    """Build a processor of three frames of 64 px."""
    crop = {"height": 64, "width": 64}
    return VideoMambaVideoProcessor(num_frames=3, size={"shortest_edge": 64}, crop_size=crop)


def save_student(folder, kind=VideoMambaForPreTraining, **kwargs):
    """Save a random model of 64 px frames in 4 x 4 patches with its processor; `kwargs` are values of its config."""
    torch.manual_seed(0)
    kind(VideoMambaConfig(**{**SIZES, **kwargs})).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def save_teacher(folder, **kwargs):
    """Save a random tower of 4 x 4 patches."""
    torch.manual_seed(1)
    return save_tiny_teacher(folder, **{"image_size": 32, "patch_size": 8, **kwargs})


def pretrain_tiny(student, teacher, folder, *words):
    """Pre-train on the micro-world as the example does; return the trainer."""
    own = ["--model", student, "--teacher", teacher, "--output_dir", folder, "--max_train_samples", 6]
    fast = ["--use_cpu", "True", "--per_device_train_batch_size", 2, "--logging_steps", 1, "--disable_tqdm", "True"]
    words = [*own, *fast, "--learning_rate", "1e-2", *words]
    return pretrain(*parse_arguments("", [str(word) for word in words]))
