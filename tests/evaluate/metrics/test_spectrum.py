"""Energy by band of spatial frequency: waves of known frequency, Parseval, and what filters do to noise."""

from __future__ import annotations

import numpy as np
import pytest

from drivegen.evaluate.figures import energy_figures
from drivegen.evaluate.metrics.spectrum import EDGES, band_energy, greatest_departure
from drivegen.evaluate.variants import Key
from drivegen.support.errors import InputError

H, W = 16, 28


def wave(rows: int, columns: int, height: float = 1.0) -> np.ndarray:
    """A wave of so many periods down and across the field."""
    y, x = np.arange(H)[:, None] / H, np.arange(W) / W
    return height * np.cos(2 * np.pi * (rows * y + columns * x))


@pytest.mark.parametrize(
    ("rows", "columns", "band"), [(0, 1, 0), (1, 1, 1), (0, 5, 2), (3, 6, 3), (6, 13, 4)], ids=lambda value: str(value)
)
def test_a_wave_lies_in_the_band_of_its_frequency(rows: int, columns: int, band: int) -> None:
    field = wave(rows, columns, 3.0)
    energy = band_energy(field + 7.0)
    assert energy[band] == pytest.approx((field**2).sum())
    assert np.delete(energy, band) == pytest.approx(0.0, abs=1e-9)


def test_bands_add_up_to_the_sum_of_squares_over_all_views_and_channels() -> None:
    latents = np.random.default_rng(0).normal(2, 1, (6, 12, H, W)).astype(np.float32)
    about_mean = latents.astype(float) - latents.mean((-2, -1), dtype=float, keepdims=True)
    assert band_energy(latents).sum() == pytest.approx(float((about_mean**2).sum()))
    assert band_energy(latents) == pytest.approx(sum(band_energy(view) for view in latents))


def test_figures_are_the_ratios_that_a_filter_makes() -> None:
    """Latents of which the first band keeps half its amplitude, and the others all."""
    real = {Key(scene, 0): np.random.default_rng(scene).normal(0, 1, (6, 4, H, W)) for scene in range(3)}
    rows = {}
    for key, latents in real.items():
        spectrum = np.fft.fft2(latents)
        radius = np.hypot(np.fft.fftfreq(H)[:, None], np.fft.fftfreq(W))
        made = np.fft.ifft2(spectrum * np.where(radius < EDGES[0], 0.5, 1.0)).real
        rows[key] = np.concatenate([band_energy(made), band_energy(latents)])
    values = {figure.name: figure.value for figure in energy_figures(rows, 3, "all")}
    assert [values[f"latent_energy_band_{i}"] for i in range(1, 6)] == pytest.approx([0.25, 1, 1, 1, 1])
    assert values["latent_energy_departure"] == pytest.approx(0.75)
    assert greatest_departure(np.array([1.0, 3.0, 1.0, 2.0])) == pytest.approx(0.5)


def test_what_has_no_frequencies_is_refused() -> None:
    with pytest.raises(InputError, match="spatial frequencies"):
        band_energy(np.zeros(5))
