"""Checkpoints on the Hub: weights, code, processor and card in one commit, and nothing on the card without a run."""

from .cards import CardDetails
from .checkpoints import push_checkpoint, push_model, push_processor, recorded_training, save_checkpoint

__all__ = ["CardDetails", "push_checkpoint", "push_model", "push_processor", "recorded_training", "save_checkpoint"]
