"""The figures of design and paper, counted; d 1024, p 256 and 16 states throughout."""

import pytest
import torch

from hmba_hf import AdapterState, HMBAConfig, HMBAModel
from hmba_hf.flops import count_flops
from hmba_hf.models.layers_mamba import MambaMixer
from hmba_hf.tasks.answering.flops import adapter_flops, answer_flops, context_flops
from test_layers_temporal_adapter import full_contexts
from tiny_models import tiny_config

GIGA, MEGA = 1e9, 1e6
D, P, INNER, N, RANK, KERNEL = 1024, 256, 2048, 16, 64, 4
# What a token costs a mixer, term by term: in_proj, convolution, x_proj, dt_proj, scan, out_proj.
READ = (
    4 * D * INNER + 2 * KERNEL * INNER + 2 * INNER * (RANK + 2 * N) + 2 * RANK * INNER + 9 * INNER * N + 2 * INNER * D
)
PASSED = 2 * D * INNER + 2 * KERNEL * INNER + 2 * INNER * (RANK + 2 * N) + 2 * RANK * INNER + 7 * INNER * N


@pytest.fixture(scope="module")
def released():
    """The context of the released structure on the meta device."""
    with torch.device("meta"):
        return HMBAModel(HMBAConfig.released()).temporal_adapter.context


def frames(t):
    return torch.empty(1, t, P, D, device="meta")


def test_a_token_costs_a_mixer_thirteen_and_a_half_megaflops_and_five_if_it_is_not_read():
    with torch.device("meta"):
        mixer, tokens = MambaMixer(D), torch.empty(1, 7, D)
    assert count_flops(mixer, tokens) == 7 * READ
    assert count_flops(mixer, tokens, num_outputs=0) == 7 * PASSED
    assert count_flops(mixer, tokens, num_outputs=2, reverse=True) == 2 * READ + 5 * PASSED
    assert READ / MEGA == pytest.approx(13.5, abs=0.05)
    assert PASSED / MEGA == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize(("t", "full", "pruned"), [(5, 86.4, 27.6), (64, 1106, 178)])
def test_the_released_structure_costs_what_the_design_says_with_its_shortcuts_and_without(released, t, full, pruned):
    """The design has rounded what a token costs; every token of the five scans is told apart here."""
    without, with_them = count_flops(full_contexts, released, frames(t)), count_flops(released, frames(t))
    assert without == 5 * t * P * READ
    assert with_them == 5 * P * READ + 2 * (t - 1) * P * PASSED
    assert without / GIGA == pytest.approx(full, rel=0.005)
    assert with_them / GIGA == pytest.approx(pruned, rel=0.025)


def test_the_next_frame_of_a_stream_costs_the_released_adapter_seventeen_gigaflops(released):
    assert count_flops(released, frames(1), AdapterState()) == 5 * P * READ
    costs = adapter_flops(HMBAConfig.released(), 1, is_stream=True)
    assert costs == {"context": 5 * P * READ, "query": 2 * P * D * D}
    assert costs["context"] / GIGA == pytest.approx(17.3, abs=0.05)


def test_the_next_frame_of_a_stream_costs_the_paper_preset_less_than_its_contexts_one_by_one():
    """52 GFLOPs count each stride by itself; the scan over time shares its projections and its way back."""
    config = HMBAConfig()
    costs, alone = adapter_flops(config, 1, is_stream=True), context_flops(config, 1)
    assert list(alone) == [f"{branch}/stride_{stride}" for stride in (1, 2) for branch in config.branches]
    assert (sum(alone.values()) + costs["query"]) / GIGA == pytest.approx(52, abs=0.5)
    shared = P * (4 * D * INNER + READ) + 4 * D * INNER + READ  # of the two branches that scan over time
    assert costs["context"] == sum(alone.values()) - shared
    tokens = 4 * P + 2
    attention = 2 * D * D * (2 * P + 2 * tokens) + 4 * P * tokens * D
    assert costs["query"] == attention + P * READ


def test_an_answer_is_counted_by_part():
    config = HMBAConfig()
    costs = answer_flops(config, num_frames=5, text_tokens=81)
    assert costs["vision_tower"] / 5 / GIGA == pytest.approx(162, rel=0.001)
    assert costs["adapter"] == sum(adapter_flops(config, 5).values())
    assert costs["projector"] == 2 * P * 1024 * 4096
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    tokens = P + 81
    assert costs["language_model"] == 2 * tokens * weights + 32 * 4 * tokens**2 * 4096 + 2 * 4096 * 32003


@pytest.mark.parametrize(("adapter", "patches"), [("none", 0), ("mean", 0), ("transformer", 4)])
def test_a_baseline_costs_its_attention_or_nothing(adapter, patches):
    d, t = 32, 5
    read = 2 * t * 2 * d * d + 4 * t * d  # keys and values of all frames, and what attention takes of them
    last = 2 * (2 * d * d + 2 * d * 2 * d)  # query, output and two layers, for the current frame alone
    assert adapter_flops(tiny_config(adapter=adapter)) == {"context": patches * (read + last), "query": 0}


def test_a_baseline_has_no_contexts():
    with pytest.raises(ValueError, match="the adapter must be one with branches, 'mamba', got 'mean'"):
        context_flops(tiny_config(adapter="mean"))


def test_what_runs_elsewhere_is_refused():
    with pytest.raises(ValueError, match="must be on the meta device, got a result on cpu"):
        count_flops(MambaMixer(8), torch.randn(1, 3, 8))
