"""Class activation maps and measures against the bare forward, the packages grad-cam and torchcam, and Quantus.

    python benchmarks/maps.py                           # ResNet50, 224 pixels, batch 8 on a processor, 256 on a GPU
    python benchmarks/maps.py --parts network,measures  # without the figure of a whole set
    python benchmarks/maps.py --memory                  # instead: the memory of an evaluation of 10,000 images

Three tables. Network: a batch through the network, with a Grad-CAM of the predicted class, and with all measures of it;
every variant in turn, each on a copy of the network of its own, as the packages leave their hooks on it. Measures: the
same maps and regions through regard and through Quantus, one of its metrics after another. Set: Grad-CAM and all
measures over a set of images that are read one by one, against the forward alone over the same set and loader.

The weights and images are random: time does not depend on them, but for constant maps, which are counted.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

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
LAYERS = {"resnet50": "layer4"}  # of other networks: the last spatial features
QUANTUS = ("PointingGame", "RelevanceMassAccuracy", "RelevanceRankAccuracy", "TopKIntersection", "AUC")

Work = Callable[[], object]


class MadeUp(data.ImageDataset):
    """Images with an ellipse as their region, made when they are asked for, of 256 pixels."""

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
    """A region of 3 to 40% of the image, bool (side, side)."""
    (x, y), (a, b) = random.uniform(0.3, 0.7, 2), random.uniform(0.1, 0.36, 2)
    places = (np.arange(side) + 0.5) / side
    return ((places[None] - x) / a) ** 2 + ((places[:, None] - y) / b) ** 2 <= 1


def regions_of(count: int, size: int, device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack([ellipse(np.random.default_rng(i), size) for i in range(count)])).to(device)


def forward(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


# The peers, each with the network of its own. All give maps of the predicted class, as large as the images.


def grad_cam(model: nn.Module, layer: str) -> Callable[[Tensor], object]:
    from pytorch_grad_cam import GradCAM

    method = GradCAM(model, target_layers=[model.get_submodule(layer)])
    return lambda images: method(input_tensor=images, targets=None)


def torch_cam(model: nn.Module, layer: str) -> Callable[[Tensor], object]:
    from torchcam.methods import GradCAM

    extractor = GradCAM(model, layer)

    def work(images: Tensor) -> Tensor:
        scores = model(images)
        (cams,) = extractor(scores.argmax(1).tolist(), scores)
        return F.interpolate(cams[:, None], images.shape[2:], mode="bilinear")[:, 0]

    return work


def torch_cam_at_its_best(model: nn.Module, layer: str) -> Callable[[Tensor], object]:
    """With parameters frozen and the graph begun at the layer, before torchcam's own hooks see its output."""
    model.requires_grad_(False)
    model.get_submodule(layer).register_forward_hook(lambda _module, _args, output: output.requires_grad_())
    return torch_cam(model, layer)


PEERS = {
    "grad-cam": ("pytorch_grad_cam", grad_cam),
    "torchcam": ("torchcam", torch_cam),
    "torchcam, frozen, graph from the layer on": ("torchcam", torch_cam_at_its_best),
}


def timed(works: dict[str, Work], device: torch.device, repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Milliseconds of each work, in turn."""
    clocks = [lambda work=work: seconds(work, device) * 1e3 for work in works.values()]
    in_turn(clocks, warm_up)
    return dict(zip(works, in_turn(clocks, repeats), strict=True))


def compared(figures: dict[str, list[float]], base: str, form: str = ".0f") -> list[list[str]]:
    """Rows of name, figures, and how many times those of the base they are, round by round."""
    rows = []
    for name, times in figures.items():
        ratios = [own / other for own, other in zip(times, figures[base], strict=True)]
        rows.append([name, spread(times, form), spread(ratios, ".3f")])
    return rows


def network_table(model: nn.Module, layer: str, images: Tensor, repeats: int) -> str:
    device = images.device
    regions = regions_of(len(images), images.shape[2], device)
    own = maps.GradCAM(copy.deepcopy(model), layer)
    works: dict[str, Work] = {
        "forward": lambda: forward(model, images),
        "regard: Grad-CAM": lambda: own(images),
        "regard: Grad-CAM and all measures": lambda: bias.measure(own(images), regions),
    }
    missing = []
    for name, (package, make) in PEERS.items():
        if find_spec(package) is None:
            missing.append(name)
            continue
        peer = make(copy.deepcopy(model), layer)
        works[name] = lambda peer=peer: peer(images)
    rows = compared(timed(works, device, repeats, warm_up=2), "forward")
    constant = int(bias.measure(own(images), regions).constant.sum())
    about = f"Grad-CAM at {layer} of the predicted class, batch {len(images)}, {images.shape[2]} pixels, "
    about += f"{str(images.dtype).removeprefix('torch.')}, medians of {repeats}; {constant} of {len(images)} maps "
    about += "are constant."
    about += f" Not installed: {', '.join(missing)}." if missing else ""
    return f"{about}\n\n{table(['a batch', 'ms', 'of the forward, round by round'], rows)}"


def those_of_quantus(cams: Tensor, regions: Tensor) -> list[Tensor]:
    """Regard's values of the five measures of Quantus alone, without the others."""
    values, inside = cams.flatten(1), regions.flatten(1)
    ranking = Ranking(values, inside)
    k = torch.stack((ranking.region, torch.full_like(ranking.region, values.shape[1] // 50)), 1)
    return [ranking.peak_inside(), (values * inside).sum(1) / values.sum(1), *ranking.precision(k).T, ranking.auc()]


def measures_table(model: nn.Module, layer: str, images: Tensor, repeats: int) -> str:
    device = images.device
    cams = maps.GradCAM(model, layer)(images)
    regions = regions_of(len(images), images.shape[2], device)
    count = len(bias.measure(cams, regions).items())
    constant = int(bias.measure(cams, regions).constant.sum())
    everything = f"regard: all {count}"
    works: dict[str, Work] = {
        everything: lambda: bias.measure(cams, regions),
        "regard: those of Quantus": lambda: those_of_quantus(cams, regions),
    }
    about = (
        f"Measures of {len(cams)} maps ({constant} constant) against regions, {images.shape[2]} pixels, medians of "
        f"{repeats}."
    )
    if find_spec("quantus") is None:
        about += " Not installed: quantus."
    else:
        works |= quantus_works(cams, regions, images)
    figures = timed(works, device, repeats)
    theirs = [taken for name, taken in figures.items() if name.startswith("Quantus")]
    if theirs:
        figures["Quantus: these five"] = [sum(taken) for taken in zip(*theirs, strict=True)]
    return f"{about}\n\n{table(['measures', 'ms', 'of ours, round by round'], compared(figures, everything, '.1f'))}"


def quantus_works(cams: Tensor, regions: Tensor, images: Tensor) -> dict[str, Work]:
    import quantus

    pixels = images.cpu().numpy()
    labels = np.zeros(len(pixels), np.int64)
    k = cams[0].numel() // 50

    def work(metric: str) -> Work:
        options = {"k": k} if metric == "TopKIntersection" else {}
        judge = getattr(quantus, metric)(disable_warnings=True, display_progressbar=False, **options)

        def judged() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                judge(
                    model=None,
                    x_batch=pixels,
                    y_batch=labels,
                    a_batch=cams[:, None].cpu().numpy(),  # from the device, where they come from
                    s_batch=regions[:, None].cpu().numpy(),
                )

        return judged

    return {f"Quantus: {metric}": work(metric) for metric in QUANTUS}


def set_table(
    model: nn.Module, layer: str, count: int, size: int, batch: int, workers: int, repeats: int, device: torch.device
) -> str:
    images = MadeUp(count)
    transform = data.Transform(size=(size, size), crop_pct=0.875)

    def alone() -> int:
        how = {"mean": MEAN, "std": STD, "workers": workers, "device": device, "masks": True}
        loader = data.create_loader(images, batch, transform=transform, **how)
        predicted = [forward(model, part.images).argmax(1) for part in loader.epoch(0)]
        return len(torch.cat(predicted).cpu())

    def measured() -> bias.Results:
        return bias.evaluate(
            model,
            images,
            layer=layer,
            transform=transform,
            mean=MEAN,
            std=STD,
            batch_size=batch,
            workers=workers,
            device=device,
        )

    works: dict[str, Work] = {
        "forward": alone,
        "regard: Grad-CAM and all measures (`bias.evaluate`)": measured,
    }
    rows = compared(timed(works, device, repeats), "forward")
    about = f"A set of {count:,} images read one by one, batch {batch}, {workers} workers, medians of {repeats}."
    return f"{about}\n\n{table(['a set', 'ms', 'of the forward, round by round'], rows)}"


class Small(nn.Module):
    """So little of a network that reading and measuring take most of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 7, 8, 3), nn.ReLU())
        self.layer1 = nn.Sequential(nn.Conv2d(16, 32, 3, 4, 1), nn.ReLU())
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer1(self.stem(x)).mean((2, 3)))


def resident() -> float:
    """MiB of this process in memory now (on Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory_table(count: int, size: int, batch: int, workers: int, device: torch.device) -> str:
    torch.manual_seed(0)
    model = Small().eval().to(device)
    images = MadeUp(count)
    marks = sorted({max(1, count // 10), count // 2, count})
    rows: list[list[str]] = []

    def note(done: int, _total: int | None) -> None:
        while marks and done >= marks[0]:
            marks.pop(0)
            row = [f"{done:,}", f"{resident():.0f}"]
            if device.type == "cuda":
                row.append(f"{torch.cuda.max_memory_allocated(device) / 2**20:.0f}")
            rows.append(row)

    before = resident()
    report = bias.evaluate(
        model,
        images,
        transform=data.Transform(size=(size, size), crop_pct=0.875),
        mean=MEAN,
        std=STD,
        batch_size=batch,
        workers=workers,
        device=device,
        progress=note,
    )
    whole = count * size * size * (3 + 1 + 4) / 2**20
    about = (
        f"`bias.evaluate` of a small network over {len(report):,} images of {size} pixels, read one by one, batch "
        f"{batch}, {workers} workers (not counted). Before: {before:.0f} MiB. All images, regions and maps together "
        f"would take {whole:,.0f} MiB."
    )
    header = ["images done", "resident MiB", *(["highest on the device, MiB"] if device.type == "cuda" else [])]
    return f"{about}\n\n{table(header, rows)}"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--parts", default="network,measures,set")
    parser.add_argument("--network", default="resnet50", help="a name of timm")
    parser.add_argument("--batch", type=int, default=None, help="8 on a processor, 256 on a GPU")
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--images", type=int, default=None, help="of the set: 64 on a processor, 8,192 on a GPU")
    parser.add_argument("--workers", type=int, default=0, help="number of DataLoader workers")
    parser.add_argument("--memory", action="store_true", help="the memory of an evaluation (10,000 images) instead")
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
    made = {
        "network": lambda: network_table(model, layer, images, options.repeats),
        "measures": lambda: measures_table(model, layer, images, options.repeats),
        "set": lambda: set_table(model, layer, count, options.size, batch, options.workers, options.repeats, device),
    }
    parts = [made[part]() for part in options.parts.split(",")]
    publish(f"Maps and measures: {options.network}", "\n\n".join(parts), device, save=not options.dry)


if __name__ == "__main__":
    main()
