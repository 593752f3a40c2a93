"""Training of any family: what learns, how fast, and how a run survives a kill."""

from .parts import LoraSettings, learn, set_trainable
from .trainer import ResumableTrainer

__all__ = ["LoraSettings", "ResumableTrainer", "learn", "set_trainable"]
