"""Camera: Fourier features of intrinsics and pose → one token per view (MagicDrive, eq. 4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from drivegen.plugin import Arrays, Plugin, Signal, select_or_null
from drivegen.plugin.fourier import fourier_features
from drivegen.scene import Frame
from drivegen.support.errors import at_least


class CameraTokens(Plugin):
    """One token per view from [K | lidar_SE3_camera] (3, 7); null is a learned matrix.

    Args:
        normalised: divide the generated image's intrinsics by its size (MagicDrive: raw intrinsics of the native image).
        half: round the matrix to fp16 first, as MagicDrive's released weights expect.
        frequencies: of the Fourier features.
    """

    accepts = ()

    def __init__(self, normalised: bool = True, half: bool = False, frequencies: int = 4) -> None:
        super().__init__()
        at_least(1, frequencies=frequencies)
        self.normalised, self.half_precision, self.frequencies = normalised, half, frequencies

    def attach(self, backbone: Any) -> None:
        self.cam2token = nn.Linear(21 * (1 + 2 * self.frequencies), backbone.token_width)
        self.uncond_cam = nn.Embedding(1, 21)

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        lidar_SE3_global = (frame.global_SE3_ego @ frame.ego_SE3_lidar).inverse()
        rows = []
        for camera in frame.cameras:
            if self.normalised:
                width, height = camera.image_size
                K = camera.K_image / np.array([[width], [height], [1.0]])
            else:
                K = camera.K_native
            rows.append(np.concatenate([K, (lidar_SE3_global @ camera.global_SE3_camera).matrix[:3]], axis=1))
        return {"camera_param": np.stack(rows).astype(np.float32)}

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        null = self.uncond_cam.weight.view(3, 7)
        param = select_or_null(keep, arrays["camera_param"], null)
        return Signal(self.cam2token(self.features(param).to(self.cam2token.weight.dtype)))

    def features(self, param: Tensor) -> Tensor:
        """Return the Fourier features (N, 1, F) of matrices (B, V, 3, 7), column by column; F = 189 with four frequencies."""
        columns = rearrange(param.half().float() if self.half_precision else param.float(), "b v r c -> (b v) 1 c r")
        emb = fourier_features(columns, self.frequencies)
        if self.half_precision:
            # The features of the halved values are computed in fp32 and rounded, which is what fp16 kernels do.
            emb = emb.half().float()
        return torch.flatten(emb, start_dim=2)
