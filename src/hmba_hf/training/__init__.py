"""Training: what learns, how fast, from what, and how a run survives a kill."""

from .parts import PARTS, LoraSettings, learn, part_of, set_trainable
from .trainer import AdapterTrainer

__all__ = ["PARTS", "AdapterTrainer", "LoraSettings", "learn", "part_of", "set_trainable"]
