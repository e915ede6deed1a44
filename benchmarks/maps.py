"""Time of class activation maps and measures, against the forward alone, grad-cam, torchcam and Quantus.

    python benchmarks/maps.py                           # ResNet50, 224 pixels, batch 8 on a CPU, 256 on a GPU
    python benchmarks/maps.py --parts network,measures  # without the evaluation of a data set
    python benchmarks/maps.py --memory                  # instead: the memory of an evaluation of 10,000 images

Three tables. Network: the forward of a batch, with a Grad-CAM of the predicted class, and with all measures of it; the
variants run in turn, each on its own copy of the network, because the packages leave their hooks on it. Measures: the
same maps and regions through regard and through Quantus, one metric at a time. Set: Grad-CAM and all measures over a
streamed data set, against the forward alone with the same loader.

The weights and images are random. Times do not depend on them, except for constant maps, whose number is given.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from common import arguments, in_turn, publish, seconds, spread, table
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from regard import bias, data, maps
from regard.bias.ranking import Ranking

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LAYERS = {"resnet50": "layer4"}  # for other networks, the last spatial features
QUANTUS = ("PointingGame", "RelevanceMassAccuracy", "RelevanceRankAccuracy", "TopKIntersection", "AUC")

Call = Callable[[], object]


class MadeUp(data.ImageDataset):
    """Images of 256 pixels with an ellipse as region, generated when they are read."""

    side = 256

    def __init__(self, count: int) -> None:
        self.name, self.split, self.classes = "made up", "", ("ellipse",)
        self.keys = tuple(f"{i}.png" for i in range(count))
        self.labels = torch.zeros(count, dtype=torch.int64)

    def fingerprint(self) -> str:
        return f"{len(self):x}"

    def image(self, index: int) -> Image.Image:
        cells = np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8)
        return Image.fromarray(cells).resize((self.side, self.side), Image.Resampling.BILINEAR)

    def mask(self, index: int) -> np.ndarray:
        return ellipse(np.random.default_rng(index), self.side)


def ellipse(random: np.random.Generator, side: int) -> np.ndarray:
    """A region that covers 3 to 40% of the image, bool (side, side)."""
    (x, y), (a, b) = random.uniform(0.3, 0.7, 2), random.uniform(0.1, 0.36, 2)
    centres = (np.arange(side) + 0.5) / side
    return ((centres[None] - x) / a) ** 2 + ((centres[:, None] - y) / b) ** 2 <= 1


def make_regions(count: int, size: int, device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack([ellipse(np.random.default_rng(i), size) for i in range(count)])).to(device)


def forward(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


# The peers. All return maps of the predicted class in the size of the images.


def grad_cam(model: nn.Module, layer: str) -> Callable[[Tensor], object]:
    from pytorch_grad_cam import GradCAM

    method = GradCAM(model, target_layers=[model.get_submodule(layer)])
    return lambda images: method(input_tensor=images, targets=None)


def torch_cam(model: nn.Module, layer: str) -> Callable[[Tensor], object]:
    from torchcam.methods import GradCAM

    extractor = GradCAM(model, layer)

    def compute(images: Tensor) -> Tensor:
        scores = model(images)
        (cams,) = extractor(scores.argmax(1).tolist(), scores)
        return F.interpolate(cams[:, None], images.shape[2:], mode="bilinear")[:, 0]

    return compute


def fast_torch_cam(model: nn.Module, layer: str) -> Callable[[Tensor], object]:
    """torchcam with frozen parameters and an autograd graph that starts at the layer."""
    model.requires_grad_(False)
    model.get_submodule(layer).register_forward_hook(lambda _module, _args, output: output.requires_grad_())
    return torch_cam(model, layer)


PEERS = {
    "grad-cam": ("pytorch_grad_cam", grad_cam),
    "torchcam": ("torchcam", torch_cam),
    "torchcam, frozen, graph from the layer on": ("torchcam", fast_torch_cam),
}


def milliseconds(
    calls: dict[str, Call], device: torch.device, repeats: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Name -> milliseconds, measured in turn."""
    timers = [lambda call=call: seconds(call, device) * 1e3 for call in calls.values()]
    in_turn(timers, warm_up)
    return dict(zip(calls, in_turn(timers, repeats), strict=True))


def rows(times: dict[str, list[float]], base: str, form: str = ".0f") -> list[list[str]]:
    """Rows of name, times, and their ratios to the times of the base, round by round."""
    cells = []
    for name, values in times.items():
        ratios = [value / reference for value, reference in zip(values, times[base], strict=True)]
        cells.append([name, spread(values, form), spread(ratios, ".3f")])
    return cells


def network_table(model: nn.Module, layer: str, images: Tensor, repeats: int) -> str:
    device = images.device
    regions = make_regions(len(images), images.shape[2], device)
    method = maps.GradCAM(copy.deepcopy(model), layer)
    calls: dict[str, Call] = {
        "forward": lambda: forward(model, images),
        "regard: Grad-CAM": lambda: method(images),
        "regard: Grad-CAM and all measures": lambda: bias.measure(method(images), regions),
    }
    missing = []
    for name, (package, make) in PEERS.items():
        if find_spec(package) is None:
            missing.append(name)
            continue
        peer = make(copy.deepcopy(model), layer)
        calls[name] = lambda peer=peer: peer(images)
    times = milliseconds(calls, device, repeats, warm_up=2)
    constant = int(bias.measure(method(images), regions).constant.sum())
    caption = f"Grad-CAM at {layer} of the predicted class, batch {len(images)}, {images.shape[2]} pixels, "
    caption += f"{str(images.dtype).removeprefix('torch.')}, medians of {repeats}; {constant} of {len(images)} maps "
    caption += "are constant."
    caption += f" Not installed: {', '.join(missing)}." if missing else ""
    return f"{caption}\n\n{table(['a batch', 'ms', 'of the forward, round by round'], rows(times, 'forward'))}"


def quantus_measures(cams: Tensor, regions: Tensor) -> list[Tensor]:
    """Only the five measures that Quantus has too, by regard."""
    values, inside = cams.flatten(1), regions.flatten(1)
    ranking = Ranking(values, inside)
    k = torch.stack((ranking.region, torch.full_like(ranking.region, values.shape[1] // 50)), 1)
    return [ranking.peak_inside(), (values * inside).sum(1) / values.sum(1), *ranking.precision(k).T, ranking.auc()]


def measures_table(model: nn.Module, layer: str, images: Tensor, repeats: int) -> str:
    device = images.device
    cams = maps.GradCAM(model, layer)(images)
    regions = make_regions(len(images), images.shape[2], device)
    measures = bias.measure(cams, regions)
    constant = int(measures.constant.sum())
    base = f"regard: all {len(measures.items())}"
    calls: dict[str, Call] = {
        base: lambda: bias.measure(cams, regions),
        "regard: those of Quantus": lambda: quantus_measures(cams, regions),
    }
    caption = (
        f"Measures of {len(cams)} maps ({constant} constant) against regions, {images.shape[2]} pixels, medians of "
        f"{repeats}."
    )
    if find_spec("quantus") is None:
        caption += " Not installed: quantus."
    else:
        calls |= quantus_calls(cams, regions, images)
    times = milliseconds(calls, device, repeats)
    quantus_times = [values for name, values in times.items() if name.startswith("Quantus")]
    if quantus_times:
        times["Quantus: these five"] = [sum(values) for values in zip(*quantus_times, strict=True)]
    return f"{caption}\n\n{table(['measures', 'ms', 'of ours, round by round'], rows(times, base, '.1f'))}"


def quantus_calls(cams: Tensor, regions: Tensor, images: Tensor) -> dict[str, Call]:
    import quantus

    pixels = images.cpu().numpy()
    labels = np.zeros(len(pixels), np.int64)
    k = cams[0].numel() // 50

    def make_call(name: str) -> Call:
        options = {"k": k} if name == "TopKIntersection" else {}
        metric = getattr(quantus, name)(disable_warnings=True, display_progressbar=False, **options)

        def call() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                metric(
                    model=None,
                    x_batch=pixels,
                    y_batch=labels,
                    a_batch=cams[:, None].cpu().numpy(),  # the time includes the copy from the device
                    s_batch=regions[:, None].cpu().numpy(),
                )

        return call

    return {f"Quantus: {name}": make_call(name) for name in QUANTUS}


def set_table(
    model: nn.Module, layer: str, count: int, size: int, batch: int, workers: int, repeats: int, device: torch.device
) -> str:
    images = MadeUp(count)
    transform = data.Transform(size=(size, size), crop_pct=0.875)

    options: dict[str, Any] = {"transform": transform, "mean": MEAN, "std": STD, "workers": workers, "device": device}

    def forward_only() -> int:
        loader = data.create_loader(images, batch, masks=True, **options)
        predicted = [forward(model, part.images).argmax(1) for part in loader.epoch(0)]
        return len(torch.cat(predicted).cpu())

    calls: dict[str, Call] = {
        "forward": forward_only,
        "regard: Grad-CAM and all measures (`bias.evaluate`)": lambda: bias.evaluate(
            model, images, layer=layer, batch_size=batch, **options
        ),
    }
    times = milliseconds(calls, device, repeats)
    caption = f"A set of {count:,} images read one by one, batch {batch}, {workers} workers, medians of {repeats}."
    return f"{caption}\n\n{table(['a set', 'ms', 'of the forward, round by round'], rows(times, 'forward'))}"


class Small(nn.Module):
    """A network so small that reading and measuring take most of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 7, 8, 3), nn.ReLU())
        self.layer1 = nn.Sequential(nn.Conv2d(16, 32, 3, 4, 1), nn.ReLU())
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer1(self.stem(x)).mean((2, 3)))


def resident() -> float:
    """The resident memory of this process in MiB (on Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory_table(count: int, size: int, batch: int, workers: int, device: torch.device) -> str:
    torch.manual_seed(0)
    model = Small().eval().to(device)
    images = MadeUp(count)
    marks = sorted({max(1, count // 10), count // 2, count})
    cells: list[list[str]] = []

    def record(done: int, _total: int | None) -> None:
        while marks and done >= marks[0]:
            marks.pop(0)
            row = [f"{done:,}", f"{resident():.0f}"]
            if device.type == "cuda":
                row.append(f"{torch.cuda.max_memory_allocated(device) / 2**20:.0f}")
            cells.append(row)

    before = resident()
    results = bias.evaluate(
        model,
        images,
        transform=data.Transform(size=(size, size), crop_pct=0.875),
        mean=MEAN,
        std=STD,
        batch_size=batch,
        workers=workers,
        device=device,
        progress=record,
    )
    total = count * size * size * (3 + 1 + 4) / 2**20
    caption = (
        f"`bias.evaluate` of a small network over {len(results):,} images of {size} pixels, read one by one, batch "
        f"{batch}, {workers} workers (not counted). Before: {before:.0f} MiB. All images, regions and maps together "
        f"would take {total:,.0f} MiB."
    )
    header = ["images done", "resident MiB", *(["highest on the device, MiB"] if device.type == "cuda" else [])]
    return f"{caption}\n\n{table(header, cells)}"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--parts", default="network,measures,set")
    parser.add_argument("--network", default="resnet50", help="a network of timm")
    parser.add_argument("--batch", type=int, default=None, help="by default 8 on a CPU, 256 on a GPU")
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--images", type=int, default=None, help="images of the set; 64 on a CPU, 8,192 on a GPU")
    parser.add_argument("--workers", type=int, default=0, help="number of DataLoader workers")
    parser.add_argument("--memory", action="store_true", help="only the memory of an evaluation of 10,000 images")
    options = parser.parse_args()
    device = torch.device(options.device)
    gpu = device.type == "cuda"
    torch.manual_seed(0)
    if options.memory:
        batch, count = options.batch or 32, options.images or 10_000
        text = memory_table(count, options.size, batch, options.workers, device)
        publish("Memory of an evaluation", text, device, save=not options.dry)
        return
    batch, count = options.batch or (256 if gpu else 8), options.images or (8192 if gpu else 64)
    model = timm.create_model(options.network).eval().to(device)
    layer = LAYERS.get(options.network) or maps.GradCAM(model).layer
    images = torch.randn(batch, 3, options.size, options.size, device=device)
    tables = {
        "network": lambda: network_table(model, layer, images, options.repeats),
        "measures": lambda: measures_table(model, layer, images, options.repeats),
        "set": lambda: set_table(model, layer, count, options.size, batch, options.workers, options.repeats, device),
    }
    parts = [tables[part]() for part in options.parts.split(",")]
    publish(f"Maps and measures: {options.network}", "\n\n".join(parts), device, save=not options.dry)


if __name__ == "__main__":
    main()
