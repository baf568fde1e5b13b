"""Compare drivegen with the tensors that MagicDrive's own networks computed from the same weights.

    python scripts/check_magicdrive.py FOLDER [--tensors DIR]

FOLDER holds `unet/` and `controlnet/`; the tensors lie beside them (or beside a folder of the same name without its last
`_…`), or in DIR. Prints a line per tensor with ‖ours − theirs‖/‖theirs‖; the status is 1 when one exceeds 1e-4 (gradients
1e-3), 2 for bad input.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from drivegen.catalog import registry
from drivegen.host.batch import Batch
from drivegen.host.host import Host
from drivegen.plugin import Denoiser, Grid
from drivegen.sampling import HostDenoiser, build_scheduler, classifier_free, sample
from drivegen.support.errors import InputError
from drivegen.support.weights import read_object
from drivegen.training.config import TrainConfig
from drivegen.training.frames import TrainBatch
from drivegen.training.module import DriveModule

sys.path.insert(0, str(Path(__file__).parent))
from magicdrive_golden import Fixture, Golden, Tensors, recorded

NULL = ("camera", "text", "boxes")
LIMIT, GRADIENT_LIMIT = 1e-4, 1e-3


@dataclass(frozen=True)
class Line:
    """One comparison; error is NaN where nothing of ours answers the tensor."""

    file: str
    tensor: str
    error: float
    limit: float

    @property
    def ok(self) -> bool:
        """Whether the error is within the limit."""
        return self.error <= self.limit

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "NOT COMPARED" if math.isnan(self.error) else f"TOO FAR (> {self.limit:g})"
        return f"{self.error:9.2e}  {self.file:<16} {self.tensor:<72} {verdict}"


def relative(ours: Tensor, theirs: Tensor) -> float:
    """‖ours − theirs‖ / ‖theirs‖ in fp64; infinite when the shapes differ."""
    if ours.shape != theirs.shape:
        return math.inf
    a, b = ours.detach().double(), theirs.double()
    return float((a - b).norm() / (b.norm() or 1.0))


def step(golden: Golden) -> Tensors:
    """One conditional step: tokens, residuals, the inside of a block, the prediction."""
    host, batch, i = golden.host, golden.batch, golden.inputs
    positions: list[Tensor] = []
    boxes = host.plugin("boxes")
    handle = boxes.bbox_proj.register_forward_pre_hook(lambda module, args: positions.append(args[0]))
    conditions = host.encode(batch.arrays, batch.grid)
    handle.remove()
    # Where gradients are wanted, what MagicDrive's block computes in two layers (projection, connector) is in two layers here.
    with recorded(golden) as seen, torch.enable_grad():
        prediction = host(i["view_latents"].flatten(0, 1), i["timestep"], conditions).detach()
    seen = {key: value.detach() for key, value in seen.items()}
    out = {k: v if v.ndim != 4 or not k.startswith("block.") else v.flatten(0, 1) for k, v in seen.items()}
    split = {"v": golden.views}
    camera = host.plugin("camera")
    rounded = registry.load("camera")(**{**camera.config, "half": True})
    for key, plugin in {"camera_emb": camera, "camera_emb_fp16": rounded}.items():
        out[key] = rearrange(plugin.features(i["camera_param"]), "(b v) 1 d -> b v d", **split)
    out["cam_tokens"] = rearrange(conditions.signals["camera"].tokens, "(b v) 1 d -> b v d", **split)
    out["bbox_tokens"] = conditions.signals["boxes"].tokens
    out["bbox_pos_emb"] = positions[0].flatten(0, 1)
    out["time_emb_controlnet"] = out["time_emb_controlnet"][:: golden.views]
    return out | {"noise_pred": prediction} | between_views(golden, out["block.norm4"])


def between_views(golden: Golden, stream: Tensor) -> Tensors:
    """Queries and outputs of the cross-view attention before the sum over neighbours, in MagicDrive's order."""
    layer = golden.host.plugin("cross_view").taps[f"{golden.block}.attn2".replace(".", "-")]
    table = golden.batch.arrays["cross_view"]["neighbours"]
    queries = rearrange(stream, "(b v) l c -> b v l c", v=golden.views)
    if layer.attention == "self":
        join = "b v l c -> b (v l) c"
        return {"block.attn4_query": rearrange(queries, join), "block.attn4": rearrange(layer.attend(stream, table), join)}
    one_by_one = [table] if layer.attention == "concat" else [table[:, :, j : j + 1] for j in range(table.shape[2])]
    outputs = torch.stack([layer.attend(stream, part) for part in one_by_one])
    present = torch.stack([(part >= 0).any(2)[0] for part in one_by_one])
    repeated = queries.expand(len(one_by_one), *queries.shape)
    pairs = [(view, j) for view in range(golden.views) for j in range(len(one_by_one)) if present[j, view]]
    return {
        "block.attn4_query": torch.cat([repeated[j, :, view] for view, j in pairs]),
        "block.attn4": torch.cat([outputs[j, :, view] for view, j in pairs]),
    }


def step_cfg(golden: Golden) -> Tensors:
    """One guided step: the unconditional half first."""
    host, batch, i = golden.host, golden.batch, golden.inputs
    x, t = i["view_latents"].flatten(0, 1), i["timestep"]
    denoise = HostDenoiser(host, batch)
    halves: list[Tensors] = []
    for known in (dict.fromkeys(NULL, False), {}):
        with recorded(golden) as seen:
            seen["noise_pred_2x"] = denoise(x, t, known)
        halves.append(seen)
    names = [k for k in halves[0] if k.startswith("down.")] + ["mid", "encoder_hidden_states_with_cam", "noise_pred_2x"]
    out = {name: torch.cat([half[name] for half in halves]) for name in names}
    out["noise_pred"] = classifier_free(denoise, golden.guidance, NULL)(x, t)
    out["noise_pred_zero_map"] = classifier_free(denoise, golden.guidance, (*NULL, "bev_map"))(x, t)
    found = re.search(r"M ?\+ ?(\d+)", golden.said("step_cfg.safetensors", "noise_pred_maxlen"))
    longer = padded(batch, int(found[1]) if found else 3)
    out["noise_pred_maxlen"] = classifier_free(HostDenoiser(host, longer), golden.guidance, NULL)(x, t)
    null_camera = host.plugin("camera").uncond_cam.weight.view(3, 7).expand_as(i["camera_param"])
    out["camera_param"] = torch.cat([null_camera, i["camera_param"]])
    out["prompt"] = torch.cat([i["negative_prompt_embeds"], i["prompt_embeds"]])
    out["map"] = torch.cat([i["map"], i["map"]])
    # Where a slot is masked nothing of its corners and class is read: MagicDrive writes zeros there.
    return out | {key: torch.cat([torch.zeros_like(i[key]), i[key]]) for key in ("bboxes", "classes", "masks")}


def padded(batch: Batch, more: int) -> Batch:
    """The same boxes with more empty slots (MagicDrive's `bbox_max_length`)."""
    boxes = batch.arrays["boxes"]
    wider = {
        key: torch.cat([value, torch.full_like(value[:, :, :1], fill).expand(-1, -1, more, *value.shape[3:])], dim=2)
        for (key, value), fill in zip(boxes.items(), (0, -1, False), strict=True)
    }
    return Batch(batch.grid, {**batch.arrays, "boxes": wider})


def sampling(golden: Golden, sampler: str, steps: int) -> Tensors:
    """A whole generation from one noise for all views of a scene."""
    out: Tensors = {}
    start = repeat(golden.inputs["latents"], "b c h w -> (b v) c h w", v=golden.views)
    guided = classifier_free(HostDenoiser(golden.host, golden.batch), golden.guidance, NULL)
    scheduler = build_scheduler(sampler, golden.host.backbone.scheduler, steps)

    def by_scene(x: Tensor) -> Tensor:
        return rearrange(x, "(b v) c h w -> b v c h w", v=golden.views)

    def denoise(x: Tensor, t: Tensor, known: Mapping[str, bool] | None = None) -> Tensor:
        prediction = guided(x, t, known)
        out[f"noise_pred.{sum(k.startswith('noise_pred') for k in out)}"] = prediction
        return prediction

    def after(index: int, t: Tensor, x: Tensor) -> None:
        out[f"latents.{index + 1}"] = by_scene(x)

    recording: Denoiser = denoise
    final = by_scene(sample(recording, scheduler, start, callback=after))
    out |= {"latents.0": by_scene(start), "final": final, "timesteps": scheduler.timesteps}
    return out | {f"final_view{v}_image_latent": final[:, v] for v in range(golden.views)}


class OneStep(DriveModule):
    """drivegen's training step with the fixture's latents, noise, timesteps and dropped scenes in place of drawn ones."""

    def __init__(self, host: Host, given: Tensors, unet: bool) -> None:
        super().__init__(host, TrainConfig(steps=1, precision="32", unet=unet))
        self.given, self.kept = given, {}

    def log(self, *args: Any, **kwargs: Any) -> None:
        """There is no Trainer to log to."""

    def latents(self, batch: TrainBatch) -> Tensor:
        return self.given["clean_latents"].flatten(0, 1)

    def _noise(self, clean: Tensor, grid: Grid, cameras: object = None) -> Tensor:
        return self.given["noise"].flatten(0, 1)

    def _timesteps(self, grid: Grid) -> Tensor:
        return self.given["timesteps"].repeat_interleave(grid.views)

    def draw_keep(self, grid: Grid) -> dict[str, Tensor]:
        dropped = self.given["drop_mask"] > 0
        if not torch.equal(dropped.all(1), dropped.any(1)):
            raise InputError("train.safetensors drops some views of a scene; drivegen drops whole scenes")
        kept = ~dropped.any(1)
        everything = torch.ones_like(kept)
        return {name: kept if name in ("camera", "text") else everything for name in self.host.plugins}


def train(golden: Golden, given: Tensors) -> Tensors:
    """One training step: noisy latents, loss, gradients by MagicDrive's names."""
    module = OneStep(golden.host, given, golden.trains_unet).train()
    batch = golden.batch
    # MagicDrive has one empty prompt for the whole batch.
    empty = golden.inputs["negative_prompt_embeds"][:1].expand_as(golden.inputs["negative_prompt_embeds"])
    batch = Batch(batch.grid, {**batch.arrays, "text": {**batch.arrays["text"], "null_states": empty}})
    seen: Tensors = {}

    def keep(host: nn.Module, args: Any, prediction: Tensor) -> None:
        seen.update(noisy_latents=args[0], model_pred=prediction)

    handle = golden.host.register_forward_hook(keep)
    with recorded(golden) as inside:
        loss = module.training_step(TrainBatch(batch), 0)
    handle.remove()
    loss.backward()
    out = {k: rearrange(v, "(b v) c h w -> b v c h w", v=golden.views) for k, v in seen.items()}
    gradients = {key: p.grad for key, p in golden.parameters.items() if p.grad is not None}
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    out |= {"loss": loss.reshape(1), "grad_norm": norm.reshape(1), **{f"grad.{k}": g for k, g in gradients.items()}}
    return out | {"encoder_hidden_states_with_cam": inside["encoder_hidden_states_with_cam"]}


def gradient_norms(golden: Golden, ours: Tensors, theirs: Mapping[str, float | None]) -> Iterator[Line]:
    """Compare the gradient norm of every trainable parameter; null or missing means no gradient, and ours must then be 0."""
    none = torch.zeros(())
    for key in sorted(theirs.keys() | golden.parameters.keys()):
        norm, wanted = ours.get(f"grad.{key}", none).norm(), theirs.get(key)
        if wanted is None:
            error = 0.0 if float(norm) == 0 else math.inf
        else:
            error = relative(norm, torch.tensor(wanted)) if key in golden.parameters else math.nan
        yield Line("train_grad_norms", key, error, GRADIENT_LIMIT)


def read_norms(path: Path) -> dict[str, float | None]:
    """Read gradient norms by MagicDrive's names; raises InputError on anything else than numbers and null."""
    norms = read_object(path)
    for key, value in norms.items():
        if value is not None and not isinstance(value, (int, float)):
            raise InputError(f"{path}: {key} is {value!r} and must be a number, or null for no gradient")
    return norms


def compare(file: str, ours: Tensors, theirs: Tensors, given: tuple[str, ...] = ()) -> Iterator[Line]:
    """Compare every tensor of a file that was not given to us."""
    for name in sorted(theirs, key=lambda n: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", n)]):
        if name not in given:
            error = relative(ours[name], theirs[name]) if name in ours else math.nan
            yield Line(file, name, error, GRADIENT_LIMIT if name.startswith("grad") else LIMIT)


def check(weights: Path, tensors: Path) -> Iterator[Line]:
    """Compare with every fixture that is there."""
    golden = Golden(weights, tensors)
    with torch.no_grad():
        for file, run in (("step", step), ("step_cfg", step_cfg)):
            if (tensors / f"{file}.safetensors").is_file():
                yield from compare(file, run(golden), Fixture(tensors / f"{file}.safetensors"))
        for path in sorted(tensors.glob("sample_*.safetensors")):
            theirs = Fixture(path)
            name = re.fullmatch(r"sample_([a-z+_]+?)\d*", path.stem)
            if name is None:
                raise InputError(f"{path}: no sampler in its name, such as sample_ddim4.safetensors")
            yield from compare(path.stem, sampling(golden, name[1], len(theirs["timesteps"])), theirs)
    if (tensors / "train.safetensors").is_file():
        theirs = Fixture(tensors / "train.safetensors")
        ours = train(golden, theirs)
        yield from compare("train", ours, theirs, given=("clean_latents", "noise", "timesteps", "drop_mask"))
        norms = tensors / "train_grad_norms.json"
        if norms.is_file():
            yield from gradient_norms(golden, ours, read_norms(norms))


def find_tensors(weights: Path) -> Path:
    """The folder of the tensors that belong to a folder of weights."""
    for folder in (weights, weights.with_name(weights.name.rpartition("_")[0] or weights.name)):
        if (folder / "inputs.safetensors").is_file():
            return folder
    raise InputError(f"there is no inputs.safetensors in {weights}; name its folder with --tensors")


def main() -> int:
    """Print the comparison; returns the exit status."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="folder with unet/ and controlnet/")
    parser.add_argument("--tensors", type=Path, help="folder with inputs.safetensors, step.safetensors …")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    try:
        for line in check(options.folder, options.tensors or find_tensors(options.folder.resolve())):
            print(line, flush=True)
            lines.append(line)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    bad = [line for line in lines if not line.ok]
    worst = max((line for line in lines if line.ok), key=lambda line: line.error, default=None)
    print(
        f"{len(lines)} tensors, {len(bad)} not equal"
        + (f"; the greatest error within limits is {worst.error:.2e}" if worst else "")
    )
    return 1 if bad or not lines else 0


if __name__ == "__main__":
    sys.exit(main())
