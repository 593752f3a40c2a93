"""Clips of many requests, encoded together."""

import torch

from hmba_hf.integrations.vllm.together import CLIPS_AT_ONCE, encode_together


def test_more_clips_than_are_encoded_at_once_keep_their_order():
    clips = [torch.full((2,), float(place)) for place in range(CLIPS_AT_ONCE + 1)]
    clips.insert(3, torch.full((3,), 100.0))
    rows = []

    def encode(inputs):
        rows.append(len(inputs["pixels"]))
        return inputs["pixels"] + 1

    encoded = encode_together({"pixels": clips}, encode)
    assert all(torch.equal(one, clip + 1) for one, clip in zip(encoded, clips, strict=True))
    assert rows == [CLIPS_AT_ONCE, 1, 1]
