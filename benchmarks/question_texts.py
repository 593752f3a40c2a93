"""The questions of drawn clips as tokens, a token for each word, by the processor of MambaVL.

python benchmarks/question_texts.py         # prints a question of each source as the model reads it
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from hmba_hf.data.actions.questioned import ANNOTATION, GENERIC, PREDICTED
from hmba_hf.data.micro_world.questions import (
    GENERIC_QUESTIONS,
    HEADS,
    MICRO_DRIVING,
    MICRO_QUESTIONS,
    ask_about_disc,
    ask_about_drive,
)
from hmba_hf.models.processing_mambavl import MambaVLProcessor, words_of_others
from hmba_hf.models.video_processing_mambavl import MambaVLVideoProcessor

ASK = {MICRO_QUESTIONS: ask_about_disc, MICRO_DRIVING: ask_about_drive}
NONE = "none"
HIDDEN = "annotation, words hidden"
SOURCES = (NONE, GENERIC, PREDICTED, HIDDEN, ANNOTATION)
ByHead = Mapping[str, str]


class Texts:
    """Questions and answers of a drawn dataset as a model takes them.

    Args:
        dataset: name of the dataset.
    """

    def __init__(self, dataset: str):
        self.generic = GENERIC_QUESTIONS[dataset]
        first, second = HEADS[dataset].values()
        seen = list(self.generic.values())
        for one in first:
            for other in second:
                seen += [one, other, *ASK[dataset](one, other).values()]
        self.tokenizer = word_tokenizer(seen)

    def ask(self, questions: Sequence[ByHead], hidden: Sequence[ByHead] | None = None) -> dict[str, Tensor]:
        """Return questions, one by head for each clip, as `input_ids` and `attention_mask`, `(n, heads, l)`.

        Args:
            questions: of the same heads for each clip.
            hidden: names of the right classes of each clip, which are hidden in the questions of other heads.
        """
        words = None if hidden is None else [words_of_others(names) for names in hidden]
        return dict(self._processor(questions[0])(questions=list(questions), hidden_words=words))

    def answers(self, names: Sequence[ByHead]) -> dict[str, Tensor]:
        """Return right answers, `answer_input_ids` and `answer_attention_mask`, `(n, heads, l)`."""
        return dict(self._processor(names[0]).answers(list(names)))

    def read(self, ids: Tensor) -> list[str]:
        """Return the words of texts, `(n, l)`."""
        return [text.replace(" <pad>", "") for text in self.tokenizer.batch_decode(ids)]

    def _processor(self, heads: ByHead) -> Any:
        generic = {head: self.generic[head] for head in heads}
        return MambaVLProcessor(MambaVLVideoProcessor(), self.tokenizer, heads=list(heads), questions=generic)


def word_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer that has a token for each word and mark of some texts."""
    normalizer = normalizers.Lowercase()
    splitter = pre_tokenizers.Whitespace()
    words: dict[str, int] = {"<pad>": 0, "<unk>": 1, "<mask>": 2}
    for text in texts:
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)):
            words.setdefault(word, len(words))
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", mask_token="<mask>"
    )


def best_from_question(source: str, bond: float, errors: float) -> dict[str, float]:
    """Return the best score of each head of `micro-questions` on its question alone, by construction."""
    verbs, nouns = HEADS[MICRO_QUESTIONS].values()
    chances: dict[tuple[str, str, int], float] = {}
    for labels in product(range(len(verbs)), range(len(nouns))):
        is_tied = labels[0] // 2 == labels[1]
        drawn = (bond * is_tied + (1 - bond) / len(nouns)) / len(verbs)
        for named in product(range(len(verbs)), range(len(nouns))):
            chance = drawn
            for guess, label, classes in zip(named, labels, (verbs, nouns), strict=True):
                wrong = errors / (len(classes) - 1)
                if source != PREDICTED:
                    wrong = 0.0
                chance *= wrong if guess != label else 1 - wrong * (len(classes) - 1)
            asked = ask_about_disc(verbs[named[0]], "<mask>" if source == HIDDEN else nouns[named[1]])
            if source == HIDDEN:
                asked["noun"] = "What <mask>?"
            for (head, text), label in zip(asked.items(), labels, strict=True):
                chances[head, text, label] = chances.get((head, text, label), 0.0) + chance
    best: dict[tuple[str, str], float] = {}
    for (head, text, _), chance in chances.items():
        best[head, text] = max(best.get((head, text), 0.0), chance)
    scores = {"verb": 0.0, "noun": 0.0}
    for (head, _), chance in best.items():
        scores[head] += chance
    return scores


def main() -> None:
    """Print questions."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for dataset, heads in HEADS.items():
        texts = Texts(dataset)
        for classes in zip(*heads.values(), strict=False):
            names = dict(zip(heads, classes, strict=True))
            asked = ASK[dataset](*classes)
            for hidden in (None, [names]):
                ids = texts.ask([asked], hidden)["input_ids"][0]
                print(f"{dataset}: {names}: {texts.read(ids)}")


if __name__ == "__main__":
    main()
