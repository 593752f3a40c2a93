"""Checkpoints on the Hub: weights, code, processor and card in one commit, with numbers of stored runs alone."""

from .cards import CardDetails
from .checkpoints import push_checkpoint, push_model, push_processor, recorded_training, save_checkpoint

__all__ = ["CardDetails", "push_checkpoint", "push_model", "push_processor", "recorded_training", "save_checkpoint"]
