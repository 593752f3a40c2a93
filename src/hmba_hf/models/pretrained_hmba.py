"""The base class of all H-MBA models, whose vocabulary holds the video token."""

from typing import Any

from .pretrained_adapter import AdapterPreTrainedModel  # first: it refuses an old transformers

# isort: split
from torch import Tensor, nn

from .configuration_hmba import HMBAConfig


class HMBAPreTrainedModel(AdapterPreTrainedModel):
    """The base class of all H-MBA models: loading, saving, initialisation, vocabulary."""

    config: HMBAConfig

    def warn_if_padding_and_no_attention_mask(self, input_ids: Tensor, attention_mask: Tensor | None) -> None:
        """Warn once, as the language model does, of ids that look padded but have no mask."""
        model: Any = self.base_model
        model.language_model.warn_if_padding_and_no_attention_mask(input_ids, attention_mask)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, *args: Any, **kwargs: Any
    ) -> nn.Embedding:
        """Resize the vocabulary as every model of transformers does.

        Raises:
            ValueError: if it would lose the video token.
        """
        if new_num_tokens is not None:
            multiple = pad_to_multiple_of or 1
            self._check_vocabulary(-(-new_num_tokens // multiple) * multiple)
        return super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, *args, **kwargs)

    def _check_vocabulary(self, size: int | None) -> None:
        """Refuse a number of tokens that lacks the video token; embeddings of others may not tell theirs."""
        if size is not None and size <= self.config.video_token_id:
            raise ValueError(
                f"the vocabulary must keep the video token {self.config.video_token_id}, got {size} tokens"
            )
