"""What a step costs: the fast path gives the plain path's numbers and leaves nothing behind; the bench counts and reports."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from bench import cost
from bench.cost import Diffusers, Ours, Size, latents, relative_error, timestep
from bench.cost_process import Step, Task, Worker, count_flops
from bench.cost_table import Contender, Measured, as_json, markdown, spread
from drivegen.host.batch import Batch, collate, prepare
from drivegen.host.host import Host
from drivegen.plugin import attention
from drivegen.sampling import HostDenoiser, classifier_free, fast_generation, remembered_projections, telescoping
from drivegen.sampling.cpu import fast, feed_forward, few_pixels, linear, winograd
from drivegen.support import runtime
from tests.street import street_frame
from tests.tiny_hosts import ALL, SIZE, tiny_host

CPU = torch.device("cpu")
TINY = Size((32, 32, 64, 64), 2, 32, (8, 16))
BENCH = Path(__file__).parents[2] / "scripts" / "bench.py"


def bench() -> Any:
    """The script as a module."""
    if "bench_script" not in sys.modules:
        spec = importlib.util.spec_from_file_location("bench_script", BENCH)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["bench_script"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["bench_script"])
    return sys.modules["bench_script"]


def plugins() -> dict[str, Any]:
    """The plugins that the script measures, with the map's embedder that fits any size of latents."""
    options = bench().parse(["--size", "small", "--device", "cpu"])
    found = dict(bench().tasks(options)[1].plugins)
    assert list(found) == ["camera", "text", "boxes", "bev_map", "cross_view"]
    return found | {"bev_map": found["bev_map"] | {"embedder": "adaptive"}}


@pytest.fixture(scope="module")
def host() -> Host:
    return tiny_host()


@pytest.fixture(scope="module")
def batch(host: Host) -> Batch:
    frame = street_frame().resized(SIZE[1], SIZE[0])
    modules = {name: host.plugin(name) for name in host.plugins}
    return collate([prepare(frame, modules)], modules, len(frame.cameras), [frame.token])


def noise(batch: Batch, seed: int) -> Tensor:
    return torch.randn(batch.grid.rows, 4, SIZE[0] // 8, SIZE[1] // 8, generator=torch.Generator().manual_seed(seed))


# -- the fast path --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("how", ["classifier_free", "telescoping"])
def test_fast_is_the_same_numbers(host: Host, batch: Batch, how: str) -> None:
    def run() -> list[Tensor]:
        inner, weights = HostDenoiser(host, batch), dict.fromkeys(ALL[:2], 2.0) | {ALL[2]: 3.0}
        denoise = classifier_free(inner, 3.0, ALL) if how == "classifier_free" else telescoping(inner, weights, ALL)
        return [denoise(noise(batch, i), torch.tensor(901 - 300 * i)) for i in (0, 1, 1)]

    plain = run()
    with remembered_projections(host), fast_generation(host):
        quick = run()
    for a, b in zip(quick, plain, strict=True):
        assert relative_error(a, b) < 1e-6
    assert not torch.equal(plain[0], plain[1])


@torch.no_grad()
def test_what_both_halves_share_is_computed_once(host: Host, batch: Batch) -> None:
    first = host.backbone.unet.down_blocks[0]
    calls = {"resnet": 0, "attention": 0, "hook": 0, "later": 0}

    def count(name: str) -> Any:
        def counting(*args: Any) -> None:
            calls[name] += 1

        return counting

    handles = [
        first.resnets[0].conv1.register_forward_hook(count("resnet")),
        first.attentions[0].transformer_blocks[0].attn1.to_q.register_forward_hook(count("attention")),
        first.resnets[0].register_forward_hook(count("hook")),
        first.attentions[0].transformer_blocks[0].attn2.to_q.register_forward_hook(count("later")),
    ]
    denoise = classifier_free(HostDenoiser(host, batch), 3.0, ALL)
    with fast_generation(host):
        for step in range(2):
            denoise(noise(batch, step), torch.tensor(500))
    for handle in handles:
        handle.remove()
    assert calls == {"resnet": 2, "attention": 2, "hook": 4, "later": 4}


def test_nothing_is_repeated_where_gradients_are_wanted(host: Host, batch: Batch) -> None:
    x = noise(batch, 0).requires_grad_()
    denoise = HostDenoiser(host, batch)
    with fast_generation(host):
        with torch.no_grad():
            denoise(x, torch.tensor(500))
        (gradient,) = torch.autograd.grad(denoise(x, torch.tensor(500)).square().sum(), x)
    (plain,) = torch.autograd.grad(HostDenoiser(host, batch)(x, torch.tensor(500)).square().sum(), x)
    assert relative_error(gradient, plain) < 1e-5


@torch.no_grad()
def test_values_changed_in_place_are_seen() -> None:
    layer = nn.Linear(3, 3)
    repeating = fast._repeat(layer.forward)
    x = torch.randn(2, 3)
    before = repeating(x)
    assert repeating(x.clone()) is before
    x += 1
    assert torch.equal(repeating(x), layer(x))
    repeating(x).zero_()
    assert torch.equal(repeating(x), layer(x))


def test_nothing_is_left_behind(host: Host) -> None:
    def fail() -> None:
        with fast_generation(host):
            assert any(type(a) is not type(b) for a, b in zip(host.modules(), copy.deepcopy(host).modules(), strict=True))
            raise ZeroDivisionError

    classes = [type(module) for module in host.modules()]

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [type(module) for module in host.modules()] == classes
    assert torch.overrides._get_current_function_mode_stack() == []


@torch.no_grad()
def test_quick_feed_forward_is_the_same_numbers(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    block = next(m for m in host.backbone.unet.modules() if isinstance(m, FeedForward))
    x = torch.randn(3, 11, block.net[0].proj.in_features)
    plain = block(x)
    with fast.quick_feed_forward(host):
        assert type(block.net[0].proj) is not nn.Linear
        assert relative_error(block(x), plain) < 1e-6
        monkeypatch.setattr(feed_forward, "ROWS", 7)
        seen: list[int] = []
        assert relative_error(block(x), plain) < 1e-6
        with block.net[0].register_forward_hook(lambda module, given, out: seen.append(given[0].shape[1])):
            assert relative_error(block(x), plain) < 1e-6
        assert seen == [11]  # a tap in it sees all rows
        assert block(x.transpose(0, 1)).shape == (11, 3, x.shape[-1])
    assert torch.equal(block(x), plain)


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 7), (28, 50), (7, 13)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("together", [1, 2048])
def test_winograd_is_the_convolution(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], bias: bool, together: int) -> None:
    monkeypatch.setattr(winograd, "MAX_TILES", together)
    layer = nn.Conv2d(24, 40, 3, padding=1, bias=bias)
    x = torch.randn(3, 24, *size)
    exact = layer.double()(x.double())
    layer.float()
    for user_input in (x, x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        found = winograd.winograd(user_input, layer.weight, layer.bias)
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert relative_error(found.double(), exact) < 3e-6


@torch.no_grad()
def test_winograd_takes_the_wide_convolutions_of_a_generation(
    host: Host, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 32)
    monkeypatch.setattr(fast, "MIN_PIXELS", 200)
    seen: list[int] = []

    def counting(x: Tensor, *rest: Any) -> Tensor:
        seen.append(x.shape[1])
        return winograd.winograd(x, *rest)

    monkeypatch.setattr(fast, "winograd", counting)
    x, t = noise(batch, 0), torch.tensor(500)
    plain = HostDenoiser(host, batch)(x, t)
    with fast_generation(host):
        quick = HostDenoiser(host, batch)(x, t)
        assert len(seen) > 8
        assert min(seen) >= 32
        assert relative_error(quick, plain) < 1e-5
        seen.clear()
        HostDenoiser(host, batch, dtype=torch.bfloat16)(x, t)
        with torch.enable_grad():
            HostDenoiser(host, batch)(x, t)
        assert not seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolutions_of_few_pixels_are_one_product(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(264, 256, 3, padding=1).to(dtype, memory_format=torch.channels_last)
    monkeypatch.setattr(few_pixels, "WEIGHTS_PER_PIXEL", {dtype: 256 * 264 // 30})
    taken: list[int] = []
    monkeypatch.setattr(fast, "by_product", lambda *given: taken.append(given[0].numel()) or few_pixels.by_product(*given))
    for shape in ((1, 264, 5, 6), (2, 264, 1, 7), (3, 264, 5, 6)):  # the last has too many
        x = torch.randn(shape, generator=g).to(dtype)
        with torch.no_grad():
            expected = layer(x.contiguous(memory_format=torch.channels_last))
            ours = fast._convolved(layer, x)
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                assert torch.equal(fast._convolved(layer, x.float() if dtype == torch.bfloat16 else x), ours)
        assert ours.dtype == dtype
        assert ours.is_contiguous(memory_format=torch.channels_last)
        assert relative_error(ours, expected) < (1e-6 if dtype == torch.float32 else 1e-3)
    assert len(taken) == 4
    fast._convolved(layer, x[:1]).sum().backward()  # a layer that learns is left alone
    assert len(taken) == 4
    assert not few_pixels.few_pixels(x[:1], layer.weight.contiguous())
    assert not few_pixels.few_pixels(x[:0], layer.weight)


def test_only_plain_convolutions_are_winograds() -> None:
    assert winograd.saves_time(nn.Conv2d(256, 256, 3, padding=1))
    others = [
        {"kernel_size": 3, "padding": 1, "stride": 2}, {"kernel_size": 3}, {"kernel_size": 1, "padding": 1},
        {"kernel_size": 3, "padding": 1, "groups": 2}, {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
        {"kernel_size": 3, "padding": "same"}, {"kernel_size": 3, "padding": 1, "dilation": 2},
    ]  # fmt: skip
    assert not any(winograd.saves_time(nn.Conv2d(256, 256, **other)) for other in others)
    assert not winograd.saves_time(nn.Conv2d(4, 320, 3, padding=1))


@pytest.mark.parametrize("parts", [1, 3, 6])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_by_parts(monkeypatch: pytest.MonkeyPatch, parts: int, masked: bool) -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(6, length, 2, 8, generator=g).bfloat16().transpose(1, 2) for length in (20, 12, 12))
    mask = torch.zeros(6, 2, 1, 12) if masked else None
    if mask is not None:
        mask[:, :, :, 9:] = -math.inf
        mask[:, :, :, 3] = math.log(0.5)
        mask = mask.bfloat16()
    wide, wide_mask = [z.float() for z in (q, k, v)], None if mask is None else mask.float()
    exact = scaled_dot_product_attention(*wide, attn_mask=wide_mask)
    monkeypatch.setattr(attention, "SCORES_BYTES", 6 // parts * 2 * 20 * 12 * 2)
    with fast.AttentionByParts():
        ours = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert ours.dtype == torch.bfloat16
    assert relative_error(ours, exact) < 1e-2
    assert relative_error(attention.attention_by_parts(*wide, wide_mask), exact) < 1e-6


def test_long_attention_without_a_softmax_is_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 520, 3, 8, generator=g).bfloat16().transpose(1, 2) for _ in range(3))
    for times in (1.0, 4.0, 30.0, 300.0):  # the last two leave the range of exponentials, above and below
        exact = scaled_dot_product_attention(*[z.float() for z in (times * q, k, v)])
        with torch.no_grad(), fast.AttentionByParts():
            ours = scaled_dot_product_attention(times * q, k, v)
        with monkeypatch.context() as patched:
            patched.setattr(attention, "LONG", 10**9)
            softmax = attention.attention_by_parts(times * q, k, v)
        assert ours.dtype == torch.bfloat16
        assert torch.isfinite(ours).all()
        assert relative_error(ours, exact) < 1.3 * relative_error(softmax, exact) + 1e-4
    assert torch.equal(ours, softmax)
    nan = q.clone()
    nan[0, 0, 0] = math.nan  # what is not finite stays so
    with torch.no_grad():
        assert torch.isnan(attention.attention_by_parts(nan, k, v)[0, 0, 0]).all()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(2, 16, 320), (3, 7, 320), (42, 320), (1, 320)])
def test_wide_products_are_the_same_numbers(shape: tuple[int, ...], threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    given = linear.as_convolution
    monkeypatch.setattr(linear, "as_convolution", lambda *args, **options: taken.append(args) or given(*args, **options))
    g = torch.Generator().manual_seed(0)
    layer, x = nn.Linear(320, 336), torch.randn(shape, generator=g)
    pixel, picture = nn.Conv2d(320, 328, 1), torch.randn(2, 320, 9, 5, generator=g).to(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            expected, wanted = layer(x), pixel(picture)
            with linear.WideLinear():
                ours, bare = layer(x), nn.functional.linear(x, layer.weight)
            assert relative_error(ours, expected) < 1e-6
            assert relative_error(bare, nn.functional.linear(x, layer.weight)) < 1e-6
            lines = linear.by_lines(pixel, picture)
        assert len(taken) == 2 * (x.numel() // 320 >= 16)
        assert ours.shape == expected.shape
        assert relative_error(lines, wanted) < 1e-6
        assert lines.is_contiguous(memory_format=torch.channels_last)
        with linear.WideLinear():
            layer(x).sum().backward()  # a layer that learns is left alone
    finally:
        torch.set_num_threads(before)
    assert layer.weight.grad is not None
    assert linear.is_one_pixel(pixel)
    assert not any(map(linear.is_one_pixel, (nn.Conv2d(320, 64, 1), nn.Conv2d(320, 320, 3), nn.Conv2d(320, 320, 1, 2))))


def test_other_attention_is_torchs_own() -> None:
    q = torch.randn(2, 2, 5, 8)
    allowed = torch.ones(5, 5, dtype=torch.bool).tril()
    with fast.AttentionByParts():
        single, causal = scaled_dot_product_attention(q, q, q), scaled_dot_product_attention(q, q, q, is_causal=True)
        half = scaled_dot_product_attention(q.bfloat16(), q.bfloat16(), q.bfloat16(), attn_mask=allowed)
    assert torch.equal(single, scaled_dot_product_attention(q, q, q))
    assert torch.equal(causal, scaled_dot_product_attention(q, q, q, is_causal=True))
    assert torch.equal(half, scaled_dot_product_attention(q.bfloat16(), q.bfloat16(), q.bfloat16(), attn_mask=allowed))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_kept_and_then_given_back() -> None:
    def resident_mb() -> float:
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
        return float(line.split()[1]) / 1024

    before = resident_mb()
    with fast.kept_memory():
        torch.ones(200, 1024, 256)  # 200 MB, free again at once
        assert resident_mb() > before + 150
    assert resident_mb() < before + 50


# -- the bench ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours() -> Ours:
    return Ours(TINY, plugins(), torch.float32, CPU)


@pytest.mark.slow
def test_ours_is_the_plain_path(ours: Ours) -> None:
    first = ours.step(latents(TINY, 0), timestep(0))
    assert first.shape == (6, 4, 8, 16)
    assert relative_error(first, ours.plain(latents(TINY, 0), timestep(0))) < 1e-5
    assert relative_error(ours.step(latents(TINY, 0), timestep(0)), first) < 1e-6


def test_every_condition_is_in_the_bench(ours: Ours) -> None:
    x, t = latents(TINY, 1), timestep(1)
    whole = ours.step(x, t)
    for name in plugins():
        absent = HostDenoiser(ours.host, ours.batch, scales={name: 0.0})
        with torch.no_grad():
            assert relative_error(classifier_free(absent, cost.GUIDANCE, cost.NULL)(x, t), whole) > 1e-4, name


@pytest.mark.slow
def test_flops_of_a_pair(ours: Ours) -> None:
    theirs = Diffusers(TINY, torch.float32, CPU)
    ours.step(latents(TINY, 2), timestep(2))
    again = count_flops(lambda: ours.step(latents(TINY, 3), timestep(3)))
    plain = count_flops(lambda: ours.plain(latents(TINY, 3), timestep(3)))
    # Once, not twice or at each step: the first layers, keys and values, tokens and map.
    assert 0 < again < plain
    picture = count_flops(lambda: theirs.control.controlnet_cond_embedding(theirs.image))
    baseline = count_flops(lambda: theirs.step(latents(TINY, 3), timestep(3)))
    # What is left is UNet and branch on twelve rows each, and ours has attention between views beside them.
    assert baseline - picture < again < 2 * (baseline - picture)
    # A convolution of 4 to 32 channels, 3×3, on 12 rows of 28×50 has this many; attention's CPU kernel is counted as its parts.
    conv = nn.Conv2d(4, 32, 3, padding=1)
    assert count_flops(lambda: conv(torch.randn(12, 4, 28, 50))) == 2 * 9 * 4 * 32 * 12 * 28 * 50
    q = torch.randn(1, 2, 20, 8)
    assert count_flops(lambda: scaled_dot_product_attention(q, q, q)) == 2 * 2 * 2 * 20 * 20 * 8


@pytest.mark.slow
def test_a_worker_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cost.SIZES, "tiny", TINY)
    worker = Worker(Task("drivegen", "tiny", torch.bfloat16, "cpu", torch.get_num_threads(), plugins()))
    step = worker.step(0)
    assert step.seconds > 0
    assert step.processor_seconds > 0
    assert worker.first_step(1).seconds > 0
    assert worker.peak() > 2**26
    assert worker.limit(64) > 1e6
    sampled = worker.sampled(2)
    assert sampled.shape == (6, 4, 8, 16)
    assert cost.psnr(torch.from_numpy(sampled) + 1e-3, torch.from_numpy(sampled)) > 40


def measured() -> Measured:
    def contender(name: str, dtype: str, seconds: tuple[float, ...], flops: float, peak: float) -> Contender:
        return Contender(name, dtype, seconds, tuple(2 * s for s in seconds), seconds[0] + 1, flops, peak * 2**30, 400e9)

    contenders = (
        contender("diffusers", "float32", (20.0, 10.0, 10.0), 4e12, 8),
        contender("drivegen", "float32", (16.0, 10.0, 11.0), 5e12, 8.4),
        contender("drivegen", "bfloat16", (8.0, 6.0, 5.0), 5e12, 4.5),
    )
    return Measured(contenders, 2e-6, 41.5, 4, 2, True)


def without_bf16(m: Measured) -> Measured:
    return replace(m, contenders=m.contenders[:2], psnr_db=None)


def test_the_table_of_given_timings() -> None:
    m = measured()
    assert str(spread(m.fp32.seconds, m.diffusers.seconds)) == "1.000 (0.800 to 1.100)"
    text = markdown(m, {"machine": "a machine"})
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines()}
    assert "1.000 (0.800 to 1.100) | ≤ 1.05 ✓ | FLOPs 1.250" in lines["time of a step, ours / diffusers, float32"]
    assert "0.500 (0.455 to 0.600) | ≤ 0.5 ✓ | PSNR of latents 41.5 dB" in lines["time of a step, ours bfloat16 / ours float32"]
    assert "1.050 | ≤ 1.1 ✓ | 8.40 GiB / 8.00 GiB" in lines["peak memory, ours / diffusers, float32"]
    assert "1000%" not in text
    assert "| 10.000 (10.000 to 20.000) | 400 | 400 GFLOP/s | 100% | 8.00 GiB |" in lines["diffusers, float32"]
    assert "- machine: a machine" in text
    assert "Not a quiet machine" not in text


def test_the_table_tells_what_is_missed_and_who_disturbed() -> None:
    m = measured()
    theirs, fp32, bf16 = m.contenders
    slow = replace(fp32, seconds=(30.0, 30.0, 30.0), processor_seconds=(30.0, 30.0, 30.0))
    text = markdown(replace(m, contenders=(theirs, slow, bf16)), {})
    assert "≤ 1.05 ✗" in text
    assert "**Not a quiet machine**: at worst a step got 50%" in text
    gpu = markdown(replace(m, on_cpu=False, contenders=(replace(theirs, dtype="bfloat16"), fp32, bf16)), {})
    assert "1.05" not in gpu
    assert "ours / diffusers, bfloat16 | 0.500" in gpu


def test_the_table_without_bfloat16() -> None:
    m = without_bf16(measured())
    assert m.bf16 is None
    assert m.ours is m.fp32
    assert m.got == 1.0
    whole, text = (markdown(x, {}).splitlines() for x in (measured(), m))
    said = "| not measured: this processor has no instructions for bfloat16 |  |  |"
    assert f"| time of a step, ours bfloat16 / ours float32 {said}" in text
    assert [line for line in text if "bfloat16" in line and said not in line] == []
    # The row of the contestant is gone, and nothing else.
    assert len(text) == len(whole) - 1
    assert [line for line in text if line.startswith("| drivegen")] == [x for x in whole if x.startswith("| drivegen, float32")]


def test_json_without_bfloat16() -> None:
    values = json.loads(json.dumps(as_json(without_bf16(measured()), {})))
    assert values["bf16_ratio"] is None
    assert values["psnr_db"] is None
    assert [c["dtype"] for c in values["contestants"]] == ["float32", "float32"]
    assert values["time_ratio"]["median"] == 1.0


class Answers:
    """A contestant's process that computes nothing."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def ask(self, name: str, *args: Any) -> Any:
        if name == "sampled":
            return (latents(TINY, 0) + (0.01 if self.task.dtype == torch.bfloat16 else 0.0)).numpy()
        seconds = 1.0 if self.task.dtype == torch.bfloat16 else 2.0
        step = Step(seconds, seconds)
        return {"step": step, "first_step": step, "flops": 1e12, "limit": 1e12, "peak": 2.0**30, "error": 1e-6}[name]

    def end(self) -> None:
        pass


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_takes_part_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], has: bool
) -> None:
    monkeypatch.setattr(bench(), "Process", Answers)
    monkeypatch.setattr(runtime, "has_bfloat16", lambda device: has)
    arguments = ["--device", "cpu", "--rounds", "2", "--threads", str(torch.get_num_threads()), "--out", str(tmp_path)]
    assert bench().main(arguments) == 0
    values = json.loads((tmp_path / "figures.json").read_text())
    assert [c["dtype"] for c in values["contestants"]] == ["float32", "float32"] + ["bfloat16"] * has
    assert values["bf16_ratio"] == ({"median": 0.5, "least": 0.5, "greatest": 0.5} if has else None)
    assert (values["psnr_db"] is not None) == has
    out, progress = capsys.readouterr()
    assert out == (tmp_path / "table.md").read_text() + "\n"
    assert ("not measured" in out) != has
    line = "round 2 of 2: diffusers in float32 2.00 s, drivegen in float32 2.00 s" + ", drivegen in bfloat16 1.00 s" * has
    assert line in [said[10:] for said in progress.splitlines()]
    assert ("in both formats" in progress) == has


def test_bfloat16_asked_of_a_processor_without_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(runtime, "has_bfloat16", lambda device: False)
    assert bench().main(["--device", "cpu", "--dtype", "bfloat16"]) == 2
    assert "use auto, float32 or another --device" in capsys.readouterr().err
    monkeypatch.setattr(runtime, "has_bfloat16", lambda device: True)
    assert bench().parse(["--device", "cpu", "--dtype", "bfloat16"]).dtype == torch.bfloat16


def test_json_holds_every_round() -> None:
    values = json.loads(json.dumps(as_json(measured(), {"size": "sd15"})))
    assert values["time_ratio"] == {"median": 1.0, "least": 0.8, "greatest": 1.1}
    assert values["flop_ratio"] == 1.25
    assert values["contestants"][0]["seconds"] == [20.0, 10.0, 10.0]
    assert values["size"] == "sd15"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rounds", "0"], "--rounds 0"),
        (["--threads", "-1"], "--threads -1"),
        (["--device", "nowhere"], "nowhere"),
        (["--dtype", "float8"], "float8"),
        (["--dtype", "float16"], "float16"),
        (["--out", __file__], "is a file"),
    ],
)
def test_wrong_arguments_end_with_status_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench().main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--size", "huge"], ["--rounds", "many"], ["--unknown"]])
def test_unknown_options_end_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench().main(arguments)
    assert ended.value.code == 2
