"""The picture and the badges of README.md, and the pictures of the pages in docs/concepts.

    python benchmarks/pictures.py                  # trains the demo's networks in demo/, unless they are there
    python benchmarks/pictures.py --demo my/demo   # with those of an earlier `regard demo`

Writes docs/picture.png, a picture of the same name beside each page of docs/concepts, and docs/badges from what
pyproject.toml says.
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
COLUMNS = 6  # test images in the picture of README.md
BLUE = figures.COLOURS[1]
SIDE = 64  # pixels of the maps that are drawn by formula


def networks_picture(demo: Path) -> Figure:
    """Test images, evenly spaced over the set, and their class activation maps by the demo's first two networks."""
    runs = {name: training.Run.open(demo / run_name(name)) for name in (REFERENCE, "corrected")}
    test = _test_images(runs[REFERENCE])
    which = torch.linspace(0, len(test) - 1, COLUMNS).long()
    batch = _batch(runs[REFERENCE], test, which)
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
        for column, each in enumerate(rows, start=1):
            if row == 1:
                _image(axes[0, column], each.draw(), f"digit {each.label}")
            _image(axes[row, column], each.cells[0].draw(), f"read as {each.cells[0].predicted.name}")
    return figure


def gate_picture() -> Figure:
    """Gates of order 0 to 3 over the logit, with the parameters they start with."""
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
    which = len(test) // 2
    batch = _batch(run, test, torch.tensor([which]))
    stages = ("group0", "group1", "group2")
    with maps.Taps(run.model(), stages) as taps, torch.no_grad():
        taps.model(batch.images)
    image = np.array(test.image(which))
    figure = _figure(6.2, 4.9)
    axes = figure.subplots(3, 4)
    for row, power in enumerate((1, 2, 4)):
        _image(axes[row, 0], draw(image, None, test.mask(which)) if row == 0 else None)
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
    """Four maps against one region: the focus inside, beyond, around, and elsewhere."""
    region = _ellipse((34, 26), (15, 11)) < 1
    blobs = {
        "inside": [((34, 26), 5)],
        "range bias": [((40, 32), 10)],
        "range bias, nothing missed": [((34, 27), 22)],
        "position bias": [((10, 50), 7)],
    }
    heat = torch.stack([_blobs(each) for each in blobs.values()])
    measures = bias.measure(heat, region.expand(len(blobs), -1, -1))
    figure = _figure(8.6, 2.6)
    for at, (axes, name) in enumerate(zip(figure.subplots(1, len(blobs)), blobs, strict=True)):
        grey = np.full((SIDE, SIDE, 3), 150, np.uint8)
        numbers = f"spill {measures.spill[at]:.2f}, miss {measures.miss[at]:.2f}, IoU {measures.iou[at]:.2f}"
        _image(axes, draw(grey, heat[at].numpy(), region.numpy(), 0.5), numbers)
        axes.set_title(name, fontsize=10, color=INK)
    return figure


def guidance_picture() -> Figure:
    """A map, its region, and where each form of the guidance loss wants the map higher or lower."""
    region = _ellipse((22, 24), (13, 10)) < 1
    heat = (_blobs([((28, 28), 9), ((46, 48), 8)])).requires_grad_()
    forms = get_args(transfer.GuidanceForm)
    figure = _figure(8.6, 2.3)
    first, *others = figure.subplots(1, 1 + len(forms))
    _image(first, draw(np.full((SIDE, SIDE, 3), 150, np.uint8), heat.detach().numpy(), region.numpy()))
    first.set_title("map and region", fontsize=10, color=INK)
    for axes, form in zip(others, forms, strict=True):
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
    """What pyproject.toml says, as SVG: file name -> text."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    (torch_needed,) = (one for one in project["dependencies"] if one.startswith("torch>"))
    values = {
        "license": project["license"],
        "python": project["requires-python"].replace(">=", "") + "+",
        "torch": torch_needed.partition(">=")[2] + "+",
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


def _batch(run: training.Run, test: InMemoryDataset, which: Tensor) -> Batch:
    recipe = run.recipe.data
    loader = create_loader(test.subset(which), len(which), mean=recipe.mean, std=recipe.std, device="cpu", masks=True)
    (batch,) = loader.epoch(0)
    return batch._replace(index=which[batch.index])


def _ellipse(middle: tuple[float, float], radii: tuple[float, float]) -> Tensor:
    """Squared distance of each pixel from the middle (row, column), 1 on the edge, (SIDE, SIDE)."""
    row, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return ((row - middle[0]) / radii[0]) ** 2 + ((column - middle[1]) / radii[1]) ** 2


def _blobs(blobs: Sequence[tuple[tuple[float, float], float]]) -> Tensor:
    """A map that is high at some places, each with its middle and radius at half of its height; 0 to 1."""
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
