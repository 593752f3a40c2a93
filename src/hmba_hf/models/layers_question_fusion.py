"""Fusions of a clip's tokens with those of questions about it: by Mamba, by attention, by a perceptron."""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .layers_mamba import DropPath, MambaMixer

FUSIONS = ("mamba", "transformer", "mlp")
MAX_TOKENS = 5000  # of a clip or a question, in the position tables of the fusion by attention


class MambaFusion(nn.Module):
    """A Mamba over a clip and a Mamba over each question, whose matrices of decays a model ties.

        features = mean(video_mixer(video)) + mean(text_mixer(question))

    The one `A_log` is all that the two see of each other before the sum. So a question shifts the features of a clip,
    and does not choose what is read of it.

    Args:
        hidden_size: channels of all tokens.
        state_size, conv_kernel, expand: of both mixers.
        share_A: whether the model ties their matrices.

    Source: arXiv:2409.11513; `Mamba` of Dongzhikang/MambaVL.
    """

    def __init__(
        self, hidden_size: int, state_size: int = 16, conv_kernel: int = 4, expand: int = 2, share_A: bool = True
    ):
        super().__init__()
        self.video_mixer = MambaMixer(hidden_size, state_size, conv_kernel, expand)
        self.text_mixer = MambaMixer(hidden_size, state_size, conv_kernel, expand)
        self.video_mixer.shares_decays = share_A
        self.text_mixer.shares_decays = share_A

    def forward(self, video: Tensor, text: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Fuse a clip with the questions of its heads.

        Args:
            video: tokens of the clip, `(b, n, d)`.
            text: tokens of the questions, `(b, heads, l, d)`.
            mask: true for tokens that are read, `(b, heads, l)`, which come first. A question without any adds
                nothing.

        Returns:
            The mixed tokens of the clip, `(b, n, d)`, and the features of each head, `(b, heads, d)`, or of one,
            `(b, 1, d)`, without questions.
        """
        mixed, _ = self.video_mixer(video, return_last_state=False)
        features = mixed.mean(dim=1)[:, None]
        if text is None or mask is None:
            return mixed, features
        read, _ = self.text_mixer(text.flatten(0, 1), return_last_state=False)
        return mixed, features + masked_mean(read, mask.flatten(0, 1)).unflatten(0, (video.shape[0], -1))


class TransformerFusion(nn.Module):
    """Attention over a clip and a question, each with a learned class token; the clip's is read.

    Args:
        hidden_size: channels of all tokens.
        num_layers: blocks.
        num_heads: attention heads of a block.
        dropout: of tokens, attention and perceptrons in training; the same share of samples skips the last block, and
            earlier ones for less.

    Source: `Fuser` of Dongzhikang/MambaVL.
    Differs: reads all tokens of a question, of which the released code gives it one, the pooled output.
    """

    def __init__(self, hidden_size: int, num_layers: int = 6, num_heads: int = 4, dropout: float = 0.1):
        super().__init__()
        self.class_tokens = nn.Parameter(torch.empty(2, hidden_size))
        self.modality_embeddings = nn.Parameter(torch.empty(2, hidden_size))
        self.position_embeddings = nn.Parameter(torch.empty(2, MAX_TOKENS, hidden_size))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList()
        for number in range(num_layers):
            rate = dropout * number / max(num_layers - 1, 1)
            self.layers.append(AttentionBlock(hidden_size, num_heads, dropout, rate))
        self.norm = nn.LayerNorm(hidden_size, eps=1e-6)

    def reset_parameters(self, std: float = 0.02) -> None:
        """Draw class tokens and tables anew."""
        for parameter in (self.class_tokens, self.modality_embeddings, self.position_embeddings):
            init.trunc_normal_(parameter, std=std)

    def forward(self, video: Tensor, text: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Fuse a clip with the questions of its heads; arguments and results are those of `MambaFusion`.

        The mixed tokens of the clip are those beside the first question.

        Raises:
            ValueError: if a clip or a question has more tokens than the tables have places.
        """
        num_heads = 1 if text is None else text.shape[1]
        tokens = self._embed(video, 0).repeat_interleave(num_heads, dim=0)
        is_read = None
        if text is not None and mask is not None:
            words = self._embed(text.flatten(0, 1), 1)
            is_word = mask.flatten(0, 1)
            is_asked = is_word.any(dim=-1, keepdim=True)  # where nothing is, the class token is not read either
            is_word = torch.cat((is_asked, is_word), dim=-1)
            is_read = nn.functional.pad(is_word, (tokens.shape[1], 0), value=True)
            tokens = torch.cat((tokens, words), dim=1)
        tokens = self.dropout(tokens)
        for layer in self.layers:
            tokens = layer(tokens, is_read)
        normed = self.norm(tokens).unflatten(0, (video.shape[0], num_heads))
        return normed[:, 0, 1 : 1 + video.shape[1]], normed[:, :, 0]

    def _embed(self, tokens: Tensor, modality: int) -> Tensor:
        """Put a class token before tokens, `(b, l, d)`, and add their places and what they are of."""
        length = tokens.shape[1]
        if length >= MAX_TOKENS:
            raise ValueError(f"a clip or a question must have less than {MAX_TOKENS} tokens, got {length}")
        first = self.class_tokens[modality].expand(tokens.shape[0], 1, -1)
        places = self.position_embeddings[modality, : 1 + length]
        return torch.cat((first, tokens), dim=1) + places + self.modality_embeddings[modality]


class AttentionBlock(nn.Module):
    """Attention and a perceptron, each after a norm and beside a residual.

    Args:
        hidden_size: channels.
        num_heads: attention heads.
        dropout: of attention and perceptron in training.
        drop_path_rate: share of samples that skip both.
    """

    def __init__(self, hidden_size: int, num_heads: int, dropout: float, drop_path_rate: float):
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size must be a multiple of {num_heads} attention heads, got {hidden_size}")
        self.num_heads = num_heads
        self.attention_dropout = dropout
        self.attention_norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)
        self.mlp_norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.fc1 = nn.Linear(hidden_size, 4 * hidden_size)
        self.fc2 = nn.Linear(4 * hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, tokens: Tensor, is_read: Tensor | None = None) -> Tensor:
        """Mix tokens, `(b, l, d)`.

        Args:
            tokens: to mix.
            is_read: true for tokens that others attend to, `(b, l)`.
        """
        normed = self.attention_norm(tokens)
        tokens = tokens + self.drop_path(self.dropout(self._attend(normed, is_read)))
        hidden = nn.functional.gelu(self.fc1(self.mlp_norm(tokens)))
        return tokens + self.drop_path(self.dropout(self.fc2(self.dropout(hidden))))

    def _attend(self, tokens: Tensor, is_read: Tensor | None) -> Tensor:
        query, key, value = (
            layer(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if is_read is None else is_read[:, None, None],
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class MlpFusion(nn.Module):
    """A perceptron of the mean of a clip and the mean of a question.

    Args:
        hidden_size: channels of all tokens.
        dropout: of the result in training.

    Source: `mlp` of Dongzhikang/MambaVL.
    Differs: reads the means of the tokens, where the released code reads a class token and RoBERTa's pooled output.
    """

    def __init__(self, hidden_size: int, dropout: float = 0.1):
        super().__init__()
        self.fc1 = nn.Linear(2 * hidden_size, 2 * hidden_size)
        self.fc2 = nn.Linear(2 * hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, video: Tensor, text: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Fuse a clip with the questions of its heads; arguments and results are those of `MambaFusion`.

        The tokens of the clip stay as they are.
        """
        seen = video.mean(dim=1)[:, None]
        asked = torch.zeros_like(seen)
        if text is not None and mask is not None:
            asked = masked_mean(text.flatten(0, 1), mask.flatten(0, 1)).unflatten(0, (video.shape[0], -1))
        both = torch.cat((seen.expand_as(asked), asked), dim=-1)
        return video, self.dropout(self.fc2(nn.functional.gelu(self.fc1(both))))


class TextProjection(nn.Module):
    """Three linear layers that bring a question's tokens to the width of the clip's.

    Args:
        text_size: channels of the text model.
        hidden_size: channels of the result.

    Source: `txt_proj` of Dongzhikang/MambaVL.
    """

    def __init__(self, text_size: int, hidden_size: int):
        super().__init__()
        self.layers = nn.ModuleList()
        self.layers.append(nn.Linear(text_size, hidden_size, bias=False))
        for _ in range(2):
            self.layers.append(nn.Linear(hidden_size, hidden_size))

    def forward(self, text: Tensor) -> Tensor:
        """Project tokens, `(..., text_size)`."""
        first, second, third = self.layers
        return third(nn.functional.relu(second(nn.functional.relu(first(text)))))


def real_first(text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move tokens that are read before all others, so that a scan meets no padding before them.

    Args:
        text: `(b, l, d)`.
        mask: true for tokens that are read, `(b, l)`.
    """
    order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    # `take_along_dim` would keep an exported graph to batches and texts of these sizes.
    return text.gather(1, order[..., None].expand_as(text)), mask.gather(1, order)


def masked_mean(text: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the tokens that are read, `(b, d)`; zeros where there are none.

    Args:
        text: `(b, l, d)`.
        mask: true for tokens that are read, `(b, l)`.
    """
    total = text.masked_fill(~mask[..., None], 0.0).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1).to(text.dtype)


def answer_loss(features: Tensor, answers: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Return how far a batch is from answering its questions: each feature must find the text of its own answer.

    Samples of one class have the same answer, which is found in any of them.

    Args:
        features: of the asked clips, `(b, d)`.
        answers: of the texts of the right answers, `(b, d)`.
        classes: `(b,)`, below zero where the answer is not known; such samples are left out.
        temperature: that similarities are divided by.
    """
    features = nn.functional.normalize(features.float(), dim=-1)
    answers = nn.functional.normalize(answers.float(), dim=-1)
    is_known = classes >= 0
    is_own = torch.eye(len(classes), dtype=torch.bool, device=classes.device)
    scores = (features @ answers.T / temperature).masked_fill(~(is_known | is_own), -torch.inf)
    is_right = (classes[:, None] == classes) & is_known | is_own
    found = scores.masked_fill(~is_right, -torch.inf).logsumexp(dim=-1)
    missed = scores.logsumexp(dim=-1) - found
    return (missed * is_known).sum() / is_known.sum().clamp(min=1)
