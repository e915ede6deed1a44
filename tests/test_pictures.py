"""The script of the figures: figures without trained networks, and the badges in README.md."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pictures():
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "benchmarks" / "pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_badges_match_pyproject(pictures) -> None:
    badges = {path.stem: path.read_text() for path in (ROOT / "docs" / "badges").glob("*.svg")}
    assert badges == pictures.badges()
    readme = (ROOT / "README.md").read_text()
    assert all(f"docs/badges/{name}.svg" in readme for name in badges)


def test_the_cases_of_focus_and_region_have_the_values_in_their_captions(pictures) -> None:
    axes = pictures.focus_picture().axes
    captions = {ax.get_title(): ax.get_xlabel() for ax in axes}
    assert captions["inside"].startswith("spill 0.00") and "miss 0.00" not in captions["inside"]
    assert "miss 0.00" in captions["range bias, nothing missed"]
    assert captions["position bias"] == "spill 1.00, miss 1.00, IoU 0.00"


def test_gates_of_higher_order_are_lower(pictures) -> None:
    lines = pictures.gate_picture().axes[0].get_lines()
    at_zero = {line.get_label(): line.get_ydata()[60] for line in lines if line.get_label().startswith("order")}
    assert at_zero == pytest.approx({"order 0": 0.5, "order 1": 0.189, "order 2": 0.061, "order 3": 0.018}, abs=1e-3)


def test_guidance_gradients_point_into_the_region(pictures) -> None:
    _, *forms = pictures.guidance_picture().axes
    gradients = {ax.get_title(): ax.images[0].get_array() for ax in forms}
    assert set(gradients) == {"energy", "l1", "ppce", "rrr"}
    middle, outside = (22, 24), (46, 48)  # the centres of the region and of the peak outside it
    assert gradients["energy"][middle] > 0 > gradients["energy"][outside]
    assert gradients["rrr"][middle] == 0 > gradients["rrr"][outside]
