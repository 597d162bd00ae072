"""Density models of images of unusual shapes: fitted and sampled if a model can be built, refused early if not."""

import numpy as np
import pytest

from tests.worldmodel.corpora.formats import write_mnist
from worldmodel import registry
from worldmodel.agents.density import DensityConfig, complete_images, fit_density, sample_density


def images(folder, *shape):
    rng = np.random.default_rng(0)
    write_mnist(folder, *(rng.integers(0, 256, (count, *shape), dtype=np.uint8) for count in (12, 4)))
    return f"mnist:{folder}"


def tiny(data, **settings):
    return DensityConfig(
        data, hidden_size=2, num_components=1, num_couplings=1, num_updates=1, batch_size=2, **settings
    )


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (1, 1)])
@pytest.mark.parametrize("pixelwise", [None, True])
def test_images_of_a_single_row_or_column_are_fitted_and_sampled(tmp_path, shape, pixelwise):
    config = tiny(images(tmp_path / "data", *shape), pixelwise=pixelwise)
    evaluation = fit_density(config, tmp_path / "run", report=False)
    assert np.isfinite(evaluation.measures[0].values).all()
    assert sample_density(tmp_path / "run", 2).paths[0].exists()
    if shape[0] == 1:
        with pytest.raises(ValueError, match="images"):
            complete_images(tmp_path / "run", 2)
    else:
        assert complete_images(tmp_path / "run", 2).exists()


@pytest.mark.slow
def test_a_single_row_has_a_report_without_completions(tmp_path):
    config = tiny(images(tmp_path / "data", 1, 4))
    fit_density(config, tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<img" in page
    assert "complet" not in page


def test_rows_that_are_too_large_are_refused_before_files_are_written(tmp_path, monkeypatch):
    config = tiny(images(tmp_path / "wide", 1, 70_000))
    with pytest.raises(ValueError, match="event"):
        fit_density(config, tmp_path / "run")
    monkeypatch.setattr(registry, "_available_memory", lambda: 10_000)
    with pytest.raises(ValueError, match="parameters"):
        fit_density(tiny(images(tmp_path / "some", 1, 100)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
