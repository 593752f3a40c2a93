import peft
import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity
from torch.testing import assert_close

from hmba_hf.conversion.rename_keys import adapter_rules, rename_tensors
from hmba_hf.models import layers_temporal_adapter
from hmba_hf.models.layers_adapter_state import AdapterState
from hmba_hf.models.layers_baseline_adapters import CurrentFrameAdapter, MeanFrameAdapter, TransformerAdapter
from hmba_hf.models.layers_context_fusion import AddFusion, ConcatFusion, CosineFusion, CrossAttentionFusion
from hmba_hf.models.layers_temporal_adapter import BRANCHES, ContextMamba, QueryMamba, TemporalAdapter

D, FRAMES, PATCHES = 8, 5, 3
RELEASED_BRANCHES = BRANCHES[1:]
RELEASED_WEIGHTS = {"divided_space_time": 0.005, "joint_space_time": 0.11}


def build_adapter(preset="paper", strides=(1, 2), branches=None, fusion="query", width=D, state_size=4):
    """Build an adapter with the choices of one preset."""
    paper = preset == "paper"
    mixer = {"state_size": state_size, "conv_kernel": 4, "expand": 2}
    branches = branches or (BRANCHES if paper else RELEASED_BRANCHES)
    context = ContextMamba(width, FRAMES, strides, branches, paper, not paper, mixer)
    fusion, weights = (fusion, None) if paper else ("cosine", RELEASED_WEIGHTS)
    query = QueryMamba(width, context.contexts, fusion, 2, weights, paper, mixer)
    return TemporalAdapter(width, context, query, gated=paper)


def randomize(module):
    """Move every parameter, also those that start at zero; scans keep more of their past."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) + (2 if name.endswith("dt_proj.bias") else 0))
    return module


def frame_features(t, b=2, dtype=torch.float64):
    return torch.randn(b, t, PATCHES, D).to(dtype).requires_grad_()


def both_ways(pair, x, norm):
    """Scan all of `x`, `(b, l, d)`, from each end and return all steps."""
    y = norm(pair.forward_mixer(x)[0])
    return y if pair.reverse_mixer is None else y + norm(pair.reverse_mixer(x.flip(1))[0]).flip(1)


def full_contexts(context, frames):
    """Compute `ContextMamba` without its shortcut: every branch for every frame, then read the last one."""
    (b, t, p, _), read = frames.shape, {}
    for branch, stride in context.contexts:
        steps = sorted(range(t - 1, -1, -stride))
        x, shared = frames[:, steps], context.share_mixers
        norm = context.norms["shared" if shared else f"{branch}_stride_{stride}"]
        if branch == "temporal":
            read[branch, stride] = both_ways(context.mixers["temporal"], x.mean(2), norm)[:, -1:]
        elif branch == "divided_space_time":
            tracks = x.permute(0, 2, 1, 3).reshape(b * p, len(steps), -1)
            over_time = both_ways(context.mixers["divided_time"], tracks, norm)
            mixed = x + over_time.reshape(b, p, len(steps), -1).permute(0, 2, 1, 3)
            pair = context.mixers["space" if shared else "divided_space"]
            read[branch, stride] = both_ways(pair, mixed.flatten(0, 1), norm).reshape(x.shape)[:, -1]
        else:
            table = context.temporal_position_embedding
            tokens = torch.cat([x[:, i] + table[min(step, len(table) - 1)] for i, step in enumerate(steps)], dim=1)
            pair = context.mixers["space" if shared else f"joint_stride_{stride}"]
            read[branch, stride] = norm(both_ways(pair, tokens, norm)).reshape(x.shape)[:, -1]
    return read


def full_form(adapter, frames):
    """Compute `TemporalAdapter` on unpadded clips through `full_contexts`."""
    query = adapter.query
    update = query.fusion(frames[:, -1], full_contexts(adapter.context, frames))[0]
    if query.latent_mixer is not None:
        update = update + query.latent_mixer(query.latent_norm(update))[0]
    return frames[:, -1] + (update if adapter.gate is None else adapter.gate * update)


def gradients(output, module, *inputs):
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    wanted = {**dict(module.named_parameters()), **dict(enumerate(inputs))}
    return dict(zip(wanted, torch.autograd.grad((output * weights).sum(), list(wanted.values())), strict=True))


def assert_gradients_close(got, wanted, tolerance):
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        scale = max(gradient.abs().max().item(), 1.0)
        assert_close(got[name], gradient, atol=tolerance * scale, rtol=0, msg=lambda m, k=name: f"{k}: {m}")


@pytest.mark.parametrize("strides", [(1,), (1, 2), (1, 3)], ids=str)
@pytest.mark.parametrize("t", [1, 2, 5, 8, 17])
@pytest.mark.parametrize("preset", ["paper", "released"])
def test_the_adapter_equals_its_full_form(preset, t, strides):
    adapter, frames = randomize(build_adapter(preset, strides)).double(), frame_features(t)
    output, wanted = adapter(frames)[0], full_form(adapter, frames)
    assert_close(output, wanted, atol=1e-12, rtol=1e-12)
    assert_gradients_close(gradients(output, adapter, frames), gradients(wanted, adapter, frames), 1e-12)


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_the_adapter_equals_its_full_form_in_single(preset):
    adapter, frames = randomize(build_adapter(preset)), frame_features(8, dtype=torch.float32)
    output, wanted = adapter(frames)[0], full_form(adapter, frames)
    assert_close(output, wanted, atol=1e-5, rtol=1e-5)
    assert_gradients_close(gradients(output, adapter, frames), gradients(wanted, adapter, frames), 1e-5)


@pytest.mark.parametrize("branch", BRANCHES)
def test_each_branch_alone_equals_its_full_form(branch):
    adapter, frames = randomize(build_adapter(branches=(branch,))).double(), frame_features(6)
    contexts, wanted = adapter.context(frames)[0], full_contexts(adapter.context, frames)
    assert list(contexts) == list(wanted) == [(branch, 1), (branch, 2)]
    assert_close(contexts, wanted, atol=1e-12, rtol=0)
    output, whole = adapter(frames)[0], full_form(adapter, frames)
    assert_gradients_close(gradients(output, adapter, frames), gradients(whole, adapter, frames), 1e-12)


@pytest.mark.parametrize("strides", [(1,), (1, 2), (1, 3)], ids=str)
@pytest.mark.parametrize("t", [1, 2, 5, 8, 17])
@pytest.mark.parametrize("preset", ["paper", "released"])
def test_a_padded_clip_gives_what_the_clip_alone_gives(preset, t, strides):
    adapter, frames = randomize(build_adapter(preset, strides)).double(), frame_features(t, b=4)
    lengths = (t, 1, (t + 1) // 2, max(1, t - 1))
    mask = torch.arange(t) >= t - torch.tensor(lengths)[:, None]
    poisoned = frames.masked_fill(~mask[..., None, None], float("nan"))
    output = adapter(poisoned, frame_mask=mask).features
    wanted = torch.cat([full_form(adapter, frames[i : i + 1, t - n :]) for i, n in enumerate(lengths)])
    assert_close(output, wanted, atol=1e-12, rtol=1e-12)
    assert_gradients_close(gradients(output, adapter, frames), gradients(wanted, adapter, frames), 1e-12)


@pytest.mark.parametrize("size", [{"width": 6, "patches": 1, "state_size": 1}, {"width": 20, "patches": 7}], ids=str)
@pytest.mark.parametrize("preset", ["paper", "released"])
def test_other_sizes_equal_their_full_form(preset, size):
    width, patches, state_size = size["width"], size["patches"], size.get("state_size", 5)
    adapter = randomize(build_adapter(preset, (1, 2), width=width, state_size=state_size)).double()
    frames = torch.randn(3, 6, patches, width).double().requires_grad_()
    output, wanted = adapter(frames)[0], full_form(adapter, frames)
    assert_close(output, wanted, atol=1e-12, rtol=1e-12)
    assert_gradients_close(gradients(output, adapter, frames), gradients(wanted, adapter, frames), 1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("strides", [(1,), (1, 2), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("preset", ["paper", "released"])
def test_frames_projected_one_by_one_give_what_the_clip_gives(preset, strides, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(layers_temporal_adapter, "FEWEST_KEPT", 0)
    adapter = randomize(build_adapter(preset, strides)).to(dtype)
    frames = frame_features(7, dtype=dtype).detach()
    pieces = [adapter.project_frames(frame) for frame in frames.split(1, dim=1)]
    assert pieces[0].keys() == {"divided_time", *(scan for scan in adapter.context.mixers if "joint" in scan)} | (
        {"space"} if preset == "released" else set()
    )
    projected = {name: torch.cat([piece[name] for piece in pieces], dim=1) for name in pieces[0]}
    real = torch.arange(7) >= torch.tensor([[0], [2]])
    for mask in (None, real):
        wanted = adapter(frames, frame_mask=mask).features
        assert_close(adapter(frames, None, mask, True, projected).features, wanted, atol=tolerance, rtol=tolerance)


def test_a_small_replaced_or_narrow_projection_is_not_split_into_frames(monkeypatch):
    adapter, frames = build_adapter().float(), frame_features(1, dtype=torch.float32)
    assert adapter.project_frames(frames) == {}
    monkeypatch.setattr(layers_temporal_adapter, "FEWEST_KEPT", 0)
    adapter.context.mixers["joint_stride_2"].forward_mixer.in_proj = nn.Linear(D, 4 * D)
    assert adapter.project_frames(frames).keys() == {"divided_time", "joint_stride_1"}
    assert adapter.bfloat16().project_frames(frames.bfloat16()) == {}


@pytest.mark.parametrize("names", [["A_log"], ["in_proj.weight", "conv1d.weight"]], ids=["bare", "of layers"])
def test_updates_of_any_parameter_of_a_mixer_are_read_and_merged(names):
    adapter = randomize(build_adapter().double())
    frames = frame_features(7)
    before = adapter(frames)[0]
    targets = {"target_modules": [], "target_parameters": names}
    updated = peft.get_peft_model(adapter, peft.LoraConfig(r=2, lora_alpha=8, init_lora_weights=False, **targets))
    wanted = updated(frames)[0]
    assert (wanted - before).abs().max() > 1e-3
    state = AdapterState()
    for frame in frames.split(1, dim=1):
        streamed, state, _ = updated(frame, state)
    assert_close(streamed, wanted)
    assert_close(updated.merge_and_unload()(frames)[0], wanted)


def test_a_convolution_over_time_is_refused_by_tools_that_wrap_torchs_own():
    for rank in (2, 16):
        with pytest.raises(ValueError, match=r"Target module CausalConv1d\(\) is not supported"):
            peft.get_peft_model(build_adapter(), peft.LoraConfig(r=rank, target_modules=["conv1d"]))


def test_the_order_of_branches_and_strides_does_not_matter():
    adapter, frames = randomize(build_adapter()).double(), frame_features(5)
    other = build_adapter(strides=(2, 1), branches=BRANCHES[::-1]).double()
    other.load_state_dict(adapter.state_dict())
    assert torch.equal(other(frames)[0], adapter(frames)[0])


def test_a_mask_without_padding_changes_nothing():
    adapter, frames = randomize(build_adapter()).double(), frame_features(5)
    assert_close(
        adapter(frames, frame_mask=torch.ones(2, 5, dtype=torch.bool))[0], adapter(frames)[0], atol=1e-12, rtol=0
    )


def test_the_past_reaches_each_context_on_its_own_grid():
    context, frames = randomize(build_adapter()).context.double(), frame_features(6)
    changed = frames.detach().clone()
    changed[:, 2] += 1  # three before the current frame: off the grid of stride 2
    for key, before in context(frames)[0].items():
        assert torch.equal(context(changed)[0][key], before) == (key[1] == 2), key


@pytest.fixture
def released(golden):
    """The released adapter's weights in ours, its numbers, and the names of the parameters that it never uses."""
    tensors, facts = golden("hmba_released_small")
    size = facts["config"]
    adapter = build_adapter("released", (1,), width=size["d_model"], state_size=size["d_state"])
    adapter.load_state_dict(renamed(tensors, "w.", adapter))
    return adapter, tensors


def renamed(tensors, start, adapter):
    """Rename what the released code has under a start of its names to the parameters of an adapter."""
    named = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
    return rename_tensors(named, adapter_rules(prefix="", ours=""), adapter.state_dict())


def test_the_released_preset_equals_the_released_code(released):
    adapter, tensors = released
    video, other = tensors["in.whole_video"], tensors["in.image_features_other"]
    contexts = adapter.context(video)[0]
    assert_close(contexts["divided_space_time", 1], tensors["out.f2_raw"], atol=1e-5, rtol=0)
    assert_close(contexts["joint_space_time", 1], tensors["out.f3_raw"], atol=1e-5, rtol=0)
    assert_close(adapter(video)[0], tensors["out.output"], atol=1e-5, rtol=0)
    assert_close(other + adapter.query(other, contexts)[0], tensors["out_other.output"], atol=1e-5, rtol=0)


def test_the_released_preset_equals_the_released_code_in_double(released):
    adapter, tensors = released
    video = tensors["in.whole_video"].double()
    contexts = adapter.double().context(video)[0]
    query = adapter.query.fusion.query_proj(video[:, -1])
    for name, branch in (("f2", "divided_space_time"), ("f3", "joint_space_time")):
        context = contexts[branch, 1]
        weighed = cosine_similarity(context, query, dim=-1)[..., None] * context
        assert_close(weighed, tensors[f"out_f64.{name}"], atol=1e-12, rtol=0)
    assert_close(adapter(video)[0], tensors["out_f64.output"], atol=1e-12, rtol=0)


def test_the_released_preset_has_the_released_codes_gradients(released, golden):
    adapter, tensors = released
    wanted, facts = golden("hmba_released_small_grads")
    inputs = [wanted[f"in.{name}"].requires_grad_() for name in ("whole_video", "image_features")]
    output = inputs[1] + adapter.query(inputs[1], adapter.context(inputs[0])[0])[0]
    (output * wanted["in.grad_weight"]).sum().backward()
    got = {name: parameter.grad for name, parameter in adapter.named_parameters()}
    expected = renamed(wanted, "grad.", adapter)
    assert got.keys() == expected.keys()
    pairs = [(got[name], expected[name]) for name in got]
    pairs += [(x.grad, wanted[f"grad_in.{k}"]) for x, k in zip(inputs, ("whole_video", "image_features"), strict=True)]
    for gradient, original in pairs:
        assert_close(gradient, original, atol=1e-4 * original.abs().max().item(), rtol=0)
    # Every released parameter either has a gradient above or is one that the released code never uses.
    weights = {k.removeprefix("w.") for k in tensors if k.startswith("w.") and ".1." not in k}
    live = {k.removeprefix("grad.") for k in wanted if k.startswith("grad.")}
    assert len(facts["no_grad_params"]) == 56
    assert weights - live == set(facts["no_grad_params"])


@pytest.mark.parametrize("fusion", ["query", "cosine", "add", "concat"])
def test_a_fresh_adapter_is_exactly_the_identity(fusion):
    frames = frame_features(5, dtype=torch.float32)
    assert torch.equal(build_adapter(fusion=fusion)(frames)[0], frames[:, -1])


@pytest.mark.parametrize("fusion", ["query", "cosine", "add", "concat"])
def test_a_fresh_adapter_learns_its_gate_first(fusion):
    adapter = build_adapter(fusion=fusion)
    found = gradients(adapter(frame_features(5, dtype=torch.float32))[0], adapter)
    assert {name for name, gradient in found.items() if gradient.any()} == {"gate"}


@pytest.mark.parametrize("fusion", ["query", "cosine", "add", "concat"])
def test_every_parameter_learns_once_the_gate_is_open(fusion):
    adapter = randomize(build_adapter(fusion=fusion))
    found = gradients(adapter(frame_features(5, dtype=torch.float32))[0], adapter)
    # A bias on all keys of a softmax moves nothing; a reverse scan over time has one step, which no decay precedes.
    idle = {"query.fusion.key_proj.bias"}
    idle |= {f"context.mixers.{scan}.reverse_mixer.A_log" for scan in ("temporal", "divided_time")}
    assert {name for name, gradient in found.items() if not gradient.any()} <= idle
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_query_fusion_is_multihead_attention_over_tagged_contexts_that_knows_its_own_patch():
    contexts = {
        (branch, stride): torch.randn(2, 1 if branch == "temporal" else 3, D).double()
        for stride in (1, 2)
        for branch in BRANCHES
    }
    fusion = randomize(CrossAttentionFusion(D, list(contexts), num_heads=2)).double()
    attention = nn.MultiheadAttention(D, 2, batch_first=True).double()
    with torch.no_grad():
        projections = (fusion.query_proj, fusion.key_proj, fusion.value_proj)
        attention.in_proj_weight.copy_(torch.cat([layer.weight for layer in projections]))
        attention.in_proj_bias.copy_(torch.cat([layer.bias for layer in projections]))
    attention.out_proj = fusion.out_proj
    branches, strides = sorted(BRANCHES), [1, 2]
    tagged = [
        context + fusion.branch_embedding[branches.index(branch)] + fusion.stride_embedding[strides.index(stride)]
        for (branch, stride), context in contexts.items()
    ]
    current, tokens = torch.randn(2, 3, D).double(), torch.cat(tagged, dim=1)
    bias = torch.zeros(2, 3, 14).double()  # (heads, patches, tokens): one token, three, three, and so again
    for head in range(2):
        for patch in range(3):
            bias[head, patch, [0, 1 + patch, 4 + patch, 7, 8 + patch, 11 + patch]] = fusion.own_patch_bias[
                head
            ].detach()
    wanted, weights = attention(
        fusion.norm(current), tokens, tokens, average_attn_weights=False, attn_mask=bias.repeat(2, 1, 1)
    )
    selected, maps = fusion(current, contexts)
    assert_close(selected, wanted, atol=1e-12, rtol=0)
    assert_close(torch.cat(list(maps.values()), dim=-1), weights, atol=1e-12, rtol=0)


def test_each_head_starts_by_reading_its_own_patch_in_one_context():
    contexts = {key: torch.randn(2, 5, 24) for key in [("divided_space_time", 1), ("divided_space_time", 2)]}
    fusion = CrossAttentionFusion(24, list(contexts), num_heads=3)
    first, second = fusion(torch.randn(2, 5, 24), contexts)[1].values()
    diagonals = [maps.diagonal(dim1=-2, dim2=-1).mean((0, 2)) > 0.9 for maps in (first, second)]
    assert torch.stack(diagonals).tolist() == [[True, False, True], [False, True, False]]


def test_attention_maps_share_one_over_all_contexts():
    maps = randomize(build_adapter())(frame_features(5, dtype=torch.float32)).attentions
    assert list(maps) == [f"{branch}/stride_{stride}" for stride in (1, 2) for branch in BRANCHES]
    for label, attention in maps.items():
        assert attention.shape == (2, 2, PATCHES, 1 if label.startswith("temporal") else PATCHES)
    assert_close(sum(attention.sum(-1) for attention in maps.values()), torch.ones(2, 2, PATCHES))


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("stride", [1, 2])
def test_attention_maps_carry_the_label_of_their_context(branch, stride):
    adapter = randomize(build_adapter())
    fusion = adapter.query.fusion
    with torch.no_grad():
        fusion.query_proj.weight.zero_()
        fusion.query_proj.bias.fill_(1)
        fusion.key_proj.weight.copy_(torch.eye(D))
        fusion.branch_embedding[sorted(BRANCHES).index(branch)] = 50.0
        fusion.stride_embedding[stride - 1] = 50.0
    maps = adapter(frame_features(5, dtype=torch.float32)).attentions
    assert_close(maps[f"{branch}/stride_{stride}"].sum(-1), torch.ones(2, 2, PATCHES))


def test_only_query_fusion_has_attention_maps():
    frames = frame_features(5, dtype=torch.float32)
    assert all(build_adapter(fusion=fusion)(frames).attentions == {} for fusion in ("cosine", "add", "concat"))


def test_simple_fusions_equal_their_formulas():
    current, shapes = torch.randn(2, 3, D), {("temporal", 1): (2, 1, D), ("temporal", 2): (2, 3, D)}
    contexts = {key: torch.randn(shape) for key, shape in shapes.items()}
    one, two = (context.expand(2, 3, D) for context in contexts.values())
    add, concat = AddFusion(list(contexts)), ConcatFusion(D, list(contexts))
    add.context_scales.data = torch.tensor([2.0, -1.0])
    cosine = randomize(CosineFusion(D, list(contexts), {"temporal": 0.5}))
    query, (first, second) = cosine.query_proj(current), cosine.context_scales
    angles = [(query * x).sum(-1, keepdim=True) / (query.norm(dim=-1) * x.norm(dim=-1))[..., None] for x in (one, two)]
    assert_close(add(current, contexts)[0], 2 * one - two)
    assert_close(concat(current, contexts)[0], concat.out_proj(torch.cat([one, two], dim=-1)))
    assert_close(cosine(current, contexts)[0], 0.5 * (first * angles[0] * one + second * angles[1] * two))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_cosine_fusion_survives_large_and_zero_vectors(dtype):
    fusion, context = CosineFusion(D, [("temporal", 1)], None).to(dtype), torch.full((1, 1, D), 30.0).to(dtype)
    current = torch.stack([torch.zeros(D), torch.full((D,), 300.0)])[None].to(dtype)
    selected = fusion(current, {("temporal", 1): context})[0]
    wanted = torch.stack([torch.zeros(D), torch.full((D,), 30.0)])[None].to(dtype)
    assert_close(selected, wanted, rtol=0.01, atol=0)
    found = gradients(fusion(current[:, 1:], {("temporal", 1): context})[0], fusion)
    assert all(gradient.isfinite().all() for gradient in found.values())


@pytest.mark.parametrize("baseline", [CurrentFrameAdapter, MeanFrameAdapter, lambda: TransformerAdapter(D, FRAMES, 2)])
def test_baselines_do_not_see_padding(baseline):
    adapter, frames = randomize(baseline()).double(), frame_features(7, b=3)
    mask = torch.arange(7) >= torch.tensor([0, 6, 2])[:, None]
    poisoned = frames.masked_fill(~mask[..., None, None], float("nan"))
    output, _, maps = adapter(poisoned, frame_mask=mask)
    alone = torch.cat([adapter(frames[i : i + 1, mask[i]])[0] for i in range(3)])
    assert maps == {}
    assert_close(output, alone, atol=1e-12, rtol=0)
    assert_gradients_close(gradients(output, adapter, frames), gradients(alone, adapter, frames), 1e-12)
    with torch.no_grad():
        assert_close(adapter.eval()(poisoned, frame_mask=mask)[0], output, atol=1e-12, rtol=0)


def test_baselines_compute_what_they_say():
    frames = frame_features(5)
    assert torch.equal(CurrentFrameAdapter()(frames)[0], frames[:, -1])
    assert_close(MeanFrameAdapter()(frames)[0], frames.mean(1))
    assert torch.equal(TransformerAdapter(D, FRAMES, 2).double()(frames)[0], frames[:, -1])


def test_every_parameter_of_the_transformer_baseline_learns():
    adapter = randomize(TransformerAdapter(D, FRAMES, 2))
    found = gradients(adapter(frame_features(5, dtype=torch.float32))[0], adapter)
    assert all(gradient.any() for gradient in found.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("preset", ["paper", "released"])
def test_half_precision_is_near_single(preset, dtype):
    adapter, frames = randomize(build_adapter(preset)), frame_features(5, dtype=torch.float32)
    if preset == "released":  # its constants leave little of the past to see
        adapter.query.fusion.weights = [1.0] * len(adapter.query.fusion.weights)
    update = adapter(frames)[0] - frames[:, -1]
    output = adapter.to(dtype)(frames.to(dtype))[0]
    assert output.dtype == dtype
    error = (output.float() - frames[:, -1] - update).abs()
    assert error.mean() < 0.05 * update.abs().mean()


@pytest.mark.parametrize(
    "adapter", [build_adapter, CurrentFrameAdapter, MeanFrameAdapter, lambda: TransformerAdapter(D, 5, 2)]
)
def test_input_that_is_no_clip_is_refused(adapter):
    with pytest.raises(ValueError, match=r"must be \(clips, frames, patches, channels\).*got \(5, 3, 8\)"):
        adapter()(torch.randn(5, PATCHES, D))
    with pytest.raises(ValueError, match=r"at least one frame, got \(2, 0, 3, 8\)"):
        adapter()(torch.randn(2, 0, PATCHES, D))
    with pytest.raises(ValueError, match=r"frame_mask must be \(2, 5\).*got \(2, 4\)"):
        adapter()(torch.randn(2, 5, PATCHES, D), frame_mask=torch.ones(2, 4))


def test_choices_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="\"concat\", got 'average'"):
        build_adapter(fusion="average")
    for build in (lambda: TransformerAdapter(D, 5, 3), lambda: CrossAttentionFusion(D, [("temporal", 1)], 3)):
        with pytest.raises(ValueError, match="multiple of num_heads=3, got 8"):
            build()


def test_an_unknown_branch_is_refused_by_name():
    with pytest.raises(ValueError, match="branches must be of .*'temporal'.*got \\['spatial'\\]"):
        ContextMamba(D, 5, (1,), ("spatial",), True, False, {"state_size": 4})
