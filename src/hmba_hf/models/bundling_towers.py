"""The towers of these files, known to the Auto classes: for a checkpoint that loads without the package."""

from transformers import AutoConfig, AutoModel

from .configuration_videomamba import VideoMambaConfig
from .modeling_videomamba import VideoMambaModel

AutoConfig.register(VideoMambaConfig.model_type, VideoMambaConfig, exist_ok=True)
AutoModel.register(VideoMambaConfig, VideoMambaModel, exist_ok=True)
TOWERS = (VideoMambaModel,)
