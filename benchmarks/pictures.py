"""The figures and badges of the documentation.

    python benchmarks/pictures.py                  # trains the demo's networks in demo/, unless they exist
    python benchmarks/pictures.py --demo my/demo   # uses the networks of an earlier `regard demo`

Writes docs/picture.png for README.md, a figure of the same name beside each page of docs/concepts, and docs/badges
from pyproject.toml.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from regard import attention, bias, figures, formatting, maps, training, transfer
from regard.data import Batch, InMemoryDataset, create_loader
from regard.demo import REFERENCE, run_demo, run_name
from regard.report import explain_batch
from regard.report.overlay import draw

DOCS = Path(__file__).parents[1] / "docs"
INK = figures.COLOURS[0]
COLUMNS = 6  # number of test images in the figure of README.md
BLUE = figures.COLOURS[1]
SIDE = 64  # side of the maps from formulas, in pixels


def networks_picture(demo: Path) -> Figure:
    """Test images, evenly spaced over the set, and their class activation maps by the demo's first two networks."""
    runs = {name: training.Run.open(demo / run_name(name)) for name in (REFERENCE, "corrected")}
    test = _test_images(runs[REFERENCE])
    index = torch.linspace(0, len(test) - 1, COLUMNS).long()
    batch = _batch(runs[REFERENCE], test, index)
    figure = _figure(8.2, 3.9)
    axes = figure.subplots(1 + len(runs), 1 + COLUMNS, width_ratios=[1.75] + [1] * COLUMNS)
    _row_title(axes[0, 0], "image", "object outlined")
    for row, (name, run) in enumerate(runs.items(), start=1):
        results = bias.Results.load(run.folder / "bias.json")
        rate, low, high = (formatting.percent(getattr(results.position_bias, key)) for key in ("value", "low", "high"))
        accuracy = formatting.percent(results.accuracy.value)
        _row_title(axes[row, 0], name, f"position bias {rate}%\n95% interval {low} to {high}%\naccuracy {accuracy}%")
        mean, std = run.recipe.data.mean or test.mean, run.recipe.data.std or test.std
        rows = explain_batch(maps.GradCAM(run.model()), batch, test, mean=mean, std=std, names=test.classes)
        for column, explanation in enumerate(rows, start=1):
            if row == 1:
                _image(axes[0, column], explanation.draw(), f"digit {explanation.label}")
            cell = explanation.cells[0]
            _image(axes[row, column], cell.draw(), f"read as {cell.predicted.name}")
    return figure


def gate_picture() -> Figure:
    """Gates of order 0 to 3 over the logit, with initial parameters."""
    logits = torch.linspace(-6, 6, 121)
    gates = {order: attention.SubAttention(order=order).build(1) for order in range(4)}
    with torch.no_grad():
        values = {order: gate(logits.view(-1, 1, 1, 1)).flatten().tolist() for order, gate in gates.items()}
    lines = {f"order {order}": [dict(zip(logits.tolist(), line, strict=True))] for order, line in values.items()}
    return figures.curves(lines, xlabel="gate logit u", ylabel="gate", level=0.5)


def attention_map_picture(demo: Path) -> Figure:
    """Attention maps of one image in the stages of the demo's corrected network, for three powers."""
    run = training.Run.open(demo / run_name("corrected"))
    test = _test_images(run)
    index = len(test) // 2
    batch = _batch(run, test, torch.tensor([index]))
    stages = ("group0", "group1", "group2")
    with maps.Taps(run.model(), stages) as taps, torch.no_grad():
        taps.model(batch.images)
    image = np.array(test.image(index))
    figure = _figure(6.2, 4.9)
    axes = figure.subplots(3, 4)
    for row, power in enumerate((1, 2, 4)):
        _image(axes[row, 0], draw(image, None, test.mask(index)) if row == 0 else None)
        axes[row, 0].set_ylabel(f"p = {power}", rotation=0, labelpad=24, va="center", color=INK)
        for column, stage in enumerate(stages, start=1):
            heat = maps.activation_map(taps.features[stage], power=power)[0].numpy()
            height, width = heat.shape
            axes[row, column].imshow(heat, cmap="inferno")
            _bare(axes[row, column])
            if row == 0:
                axes[row, column].set_title(f"stage {column}, {height} x {width}", fontsize=9, color=INK)
    return figure


def focus_picture() -> Figure:
    """Four maps and one region: the focus inside the region, beyond its edge, around it, and elsewhere."""
    region = _ellipse((34, 26), (15, 11)) < 1
    blobs = {
        "inside": [((34, 26), 5)],
        "range bias": [((40, 32), 10)],
        "range bias, nothing missed": [((34, 27), 22)],
        "position bias": [((10, 50), 7)],
    }
    heat = torch.stack([_blobs(parts) for parts in blobs.values()])
    measures = bias.measure(heat, region.expand(len(blobs), -1, -1))
    figure = _figure(8.6, 2.6)
    for i, (axes, name) in enumerate(zip(figure.subplots(1, len(blobs)), blobs, strict=True)):
        grey = np.full((SIDE, SIDE, 3), 150, np.uint8)
        numbers = f"spill {measures.spill[i]:.2f}, miss {measures.miss[i]:.2f}, IoU {measures.iou[i]:.2f}"
        _image(axes, draw(grey, heat[i].numpy(), region.numpy(), 0.5), numbers)
        axes.set_title(name, fontsize=10, color=INK)
    return figure


def guidance_picture() -> Figure:
    """A map, its region, and the negative gradient of each form of the guidance loss."""
    region = _ellipse((22, 24), (13, 10)) < 1
    heat = (_blobs([((28, 28), 9), ((46, 48), 8)])).requires_grad_()
    forms = get_args(transfer.GuidanceForm)
    figure = _figure(8.6, 2.3)
    first, *form_axes = figure.subplots(1, 1 + len(forms))
    _image(first, draw(np.full((SIDE, SIDE, 3), 150, np.uint8), heat.detach().numpy(), region.numpy()))
    first.set_title("map and region", fontsize=10, color=INK)
    for axes, form in zip(form_axes, forms, strict=True):
        loss = transfer.guidance_loss(heat[None], region[None], form)
        (gradient,) = torch.autograd.grad(loss, heat)
        step = -gradient.numpy()
        reach = float(np.quantile(np.abs(step), 0.995))
        axes.imshow(step, cmap="RdBu_r", vmin=-reach, vmax=reach)
        axes.contour(region.numpy(), levels=[0.5], colors=[INK], linewidths=0.8)
        _bare(axes, f"loss {loss.item():.2f}")
        axes.set_title(form, fontsize=10, color=INK)
    return figure


def badges() -> dict[str, str]:
    """File name -> SVG: the license and the oldest versions of Python and torch, from pyproject.toml."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    (torch_requirement,) = (name for name in project["dependencies"] if name.startswith("torch>"))
    values = {
        "license": project["license"],
        "python": project["requires-python"].replace(">=", "") + "+",
        "torch": torch_requirement.partition(">=")[2] + "+",
    }
    return {name: _badge(name, value) for name, value in values.items()}


def _badge(name: str, value: str) -> str:
    left, right = (12 + 7 * len(text) for text in (name, value))
    text = 'y="14" font-family="Verdana,sans-serif" font-size="11" fill="#fff" text-anchor="middle"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img">'
        f"<title>{name}: {value}</title>"
        f'<rect width="{left}" height="20" fill="#555"/><rect x="{left}" width="{right}" height="20" fill="{BLUE}"/>'
        f'<text x="{left / 2}" textLength="{7 * len(name)}" {text}>{name}</text>'
        f'<text x="{left + right / 2}" textLength="{7 * len(value)}" {text}>{value}</text></svg>\n'
    )


def _test_images(run: training.Run) -> InMemoryDataset:
    test = training.load_data(run.recipe.data).test
    assert isinstance(test, InMemoryDataset)
    return test


def _batch(run: training.Run, test: InMemoryDataset, index: Tensor) -> Batch:
    recipe = run.recipe.data
    loader = create_loader(test.subset(index), len(index), mean=recipe.mean, std=recipe.std, device="cpu", masks=True)
    (batch,) = loader.epoch(0)
    return batch._replace(index=index[batch.index])


def _ellipse(middle: tuple[float, float], radii: tuple[float, float]) -> Tensor:
    """The squared distance of each pixel from the middle (row, column), scaled to 1 on the ellipse, (SIDE, SIDE)."""
    row, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return ((row - middle[0]) / radii[0]) ** 2 + ((column - middle[1]) / radii[1]) ** 2


def _blobs(blobs: Sequence[tuple[tuple[float, float], float]]) -> Tensor:
    """A map, scaled to a maximum of 1, with peaks of a given middle and radius at half of the height."""
    heat = torch.stack([torch.exp2(-_ellipse(middle, (radius, radius))) for middle, radius in blobs]).amax(0)
    return heat / heat.max()


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _bare(axes: Axes, text: str = "") -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlabel(text, fontsize=8.5, color=INK, labelpad=2)


def _image(axes: Axes, pixels: np.ndarray | None, text: str = "") -> None:
    if pixels is not None:
        axes.imshow(pixels)
    _bare(axes, text)


def _row_title(axes: Axes, title: str, text: str) -> None:
    axes.axis("off")
    axes.text(0, 0.95, title, fontsize=10.5, weight="bold", va="top", color=INK, transform=axes.transAxes)
    axes.text(0, 0.72, text, fontsize=8.5, va="top", linespacing=1.35, color=INK, transform=axes.transAxes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="folder of `regard demo`")
    demo = parser.parse_args().demo
    if not (demo / run_name("corrected") / "bias.json").is_file():
        run_demo(demo)
    pictures = {
        "picture": networks_picture(demo),
        "concepts/gate": gate_picture(),
        "concepts/attention-map": attention_map_picture(demo),
        "concepts/focus-and-region": focus_picture(),
        "concepts/guidance": guidance_picture(),
    }
    for name, figure in pictures.items():
        path = DOCS / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=125, facecolor="white", metadata={"Software": None})
        print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")
    (DOCS / "badges").mkdir(exist_ok=True)
    for name, text in badges().items():
        (DOCS / "badges" / f"{name}.svg").write_text(text)


if __name__ == "__main__":
    main()
