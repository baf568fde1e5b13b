"""From a denoiser to latents: samplers, guidance, start noise, and everything constant computed once."""

from drivegen.sampling.agreement import agreeing, overlaps
from drivegen.sampling.classifier import Classifier, classifier_guided
from drivegen.sampling.cpu.fast import fast_generation
from drivegen.sampling.denoiser import HostDenoiser, check_region, remembered_projections
from drivegen.sampling.guidance import classifier_free, telescoping
from drivegen.sampling.inpainting import Known, cells
from drivegen.sampling.inversion import invert
from drivegen.sampling.loop import sample, start_at
from drivegen.sampling.noise import MAX_SEED, camera_generators, check_seed, draw_noise
from drivegen.sampling.reuse import Reuse, check_reuse, reusing
from drivegen.sampling.samplers import SAMPLERS, build_scheduler, check_run
from drivegen.sampling.settings import Sampling
from drivegen.sampling.sphere import sphere_noise

__all__ = [
    "MAX_SEED", "SAMPLERS", "Classifier", "HostDenoiser", "Known", "Reuse", "Sampling", "agreeing", "build_scheduler",
    "camera_generators", "cells", "check_region", "check_reuse", "check_run", "check_seed", "classifier_free",
    "classifier_guided", "draw_noise", "fast_generation", "invert", "overlaps", "remembered_projections", "reusing", "sample",
    "sphere_noise", "start_at", "telescoping",
]  # fmt: skip
