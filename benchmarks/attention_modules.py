"""Time and memory of attention modules, eager and compiled, against textbook code, timm's modules and a copy.

    python benchmarks/attention_modules.py                      # (16, 256, 56, 56) on a CPU, (256, …) on a GPU
    python benchmarks/attention_modules.py --modules shuffle,se --channels 2048 --side 7 --memory channels_last
    python benchmarks/attention_modules.py --network none       # without the training steps of a ResNet50
    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=68719476736 MALLOC_ARENA_MAX=1 python benchmarks/attention_modules.py
                                                                # glibc keeps memory: no page faults

All variants of a module are timed in turn: forward alone, and forward with backward (gradients of the features and the
parameters). A copy is `x.clone()`, which allocates its output, as every module does; the time of a copy to allocated
memory is printed too. Kept: the size of the tensors saved for backward, divided by the size of the features. On a GPU
times are averages over 20 calls.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from functools import partial

import memory
import textbook
import timm.layers
import torch
from common import arguments, in_turn, publish, seconds, spread, table
from torch import Tensor, nn

from regard import attention, models


class Case:
    """A module of regard, its textbook version, and the name of timm's module, if it has one.

    `floor`: the least time of forward and backward, in copies (one read and one write of the features).
    """

    def __init__(self, name: str, plain: type[nn.Module], floor: float, timm_name: str | None = None, **options):
        self.name, self.plain, self.floor, self.timm_name, self.options = name, plain, floor, timm_name, options


CASES = {
    "shuffle": Case("shuffle", textbook.Shuffle, 2.5),
    "se": Case("se", textbook.SE, 3.5, "se"),
    "LSAS-se": Case("se", textbook.SubAttentionSE, 3.5, gate="sub-attention"),
    "eca": Case("eca", textbook.ECA, 3.5, "eca"),
    "srm": Case("srm", textbook.SRM, 4.0),
    "cbam": Case("cbam", textbook.CBAM, 5.0, "cbam"),
    "sge": Case("sge", textbook.SGE, 2.5),
    "coord": Case("coord", textbook.Coordinate, 3.5, "coord"),
    "gc": Case("gc", textbook.GlobalContext, 4.5, "gc"),
}
TIMM_OPTIONS = {
    "SEModule": {"rd_divisor": 1},
    "GlobalContext": {"fuse_add": True, "fuse_scale": False, "rd_ratio": 1 / 16},
}


def forward(module: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        module(x)


def forward_backward(module: nn.Module, x: Tensor, g: Tensor) -> None:
    torch.autograd.grad(module(x), [x, *(p for p in module.parameters() if p.requires_grad)], g)


def saved_size(module: nn.Module, x: Tensor) -> float:
    """The size of the tensors saved for backward without parameters, divided by the size of `x`."""
    saved = memory.saved(lambda: module(x), module.parameters())
    return sum(saved.values()) / (x.numel() * x.element_size())


def build(case: Case, x: Tensor, compiled: bool) -> dict[str, nn.Module]:
    channels = x.shape[1]
    variants = {"regard": attention.create(case.name, channels, **case.options), "textbook": case.plain(channels)}
    if compiled:
        torch.compiler.reset()  # torch limits how often it compiles one class
        # torch.compile converts the features of a graph with a convolution to channels last, and back. In a network the
        # features around a module are in channels last anyway.
        options = {"layout_optimization": False} if x.is_contiguous() else None
        compiler = torch.compile(dynamic=False, options=options)
        variants |= {f"{name} compiled": compiler(module) for name, module in variants.items()}
    if case.timm_name is not None:
        variants["timm"] = timm.layers.get_attn(case.timm_name)(channels, **TIMM_OPTIONS.get(case.timm_name, {}))
    return {name: module.to(x.device, x.dtype).train() for name, module in variants.items()}


PEERS = ("regard compiled", "textbook", "textbook compiled", "timm")


def modules_table(names: list[str], x: Tensor, repeats: int, compiled: bool) -> tuple[str, str]:
    device = x.device
    g = torch.randn_like(x)
    features = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    buffer = torch.empty_like(x)
    calls = 20 if device.type == "cuda" else 1

    def timer(function: Callable[[], object]) -> Callable[[], float]:
        return lambda: seconds(lambda: [function() for _ in range(calls)], device) * 1e3 / calls

    rows, copies, copies_to_buffer = [], [], []
    for name in names:
        case = CASES[name]
        variants = build(case, x, compiled)
        timers = {
            "copy": timer(x.clone),
            "copy to buffer": timer(lambda: buffer.copy_(x)),
            **{f"{v} f": timer(partial(forward, module, x)) for v, module in variants.items()},
            **{f"{v} fb": timer(partial(forward_backward, module, features, g)) for v, module in variants.items()},
        }
        in_turn(list(timers.values()), 2)  # warm-up and compilation
        times = dict(zip(timers, in_turn(list(timers.values()), repeats), strict=True))
        median = {name: statistics.median(values) for name, values in times.items()}
        copies.append(median["copy"])
        copies_to_buffer.append(median["copy to buffer"])
        row = [name]
        for kind in ("f", "fb"):
            regard_time = median[f"regard {kind}"]
            row += [f"{regard_time:.3f}", f"{regard_time / median['copy']:.2f}"]
            if kind == "fb":
                row.append(f"{case.floor:.1f}")
            for peer in PEERS:
                row.append(f"{median[f'{peer} {kind}'] / regard_time:.2f}" if f"{peer} {kind}" in median else "")
        row += [f"{saved_size(variants[v], features):.2f}" for v in ("regard", "textbook")]
        rows.append(row)
        print(*row, sep=" | ", file=sys.stderr, flush=True)
    header = ["module", "forward ms", "copies", *PEERS, "forward + backward ms", "copies", "floor", *PEERS]
    note = (
        f"A copy takes {statistics.median(copies):.3f} ms (to memory in use {statistics.median(copies_to_buffer):.3f}"
        "). Columns of peers and of regard compiled: their time, divided by that of regard eager."
    )
    return table([*header, "kept", "textbook keeps"], rows), note


def network_table(name: str, batch: int, size: int, device: torch.device, repeats: int, dtype: torch.dtype) -> str:
    """Times of training steps of a network without attention, with regard's shuffle attention and the textbook's."""
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(1000, (batch,), device=device)

    def stepper(module: str | type[nn.Module] | None) -> Callable[[], float]:
        model = models.create(name, 1000)
        model = (attention.attach(model, module) if module is not None else model).to(device).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()

        return lambda: seconds(step, device) * 1e3

    timers = {"none": stepper(None), "shuffle": stepper("shuffle"), "textbook shuffle": stepper(textbook.Shuffle)}
    in_turn(list(timers.values()), 2)
    times = dict(zip(timers, in_turn(list(timers.values()), repeats), strict=True))
    rows = []
    for variant, values in times.items():
        ratios = [value / plain for value, plain in zip(values, times["none"], strict=True)]
        rows.append([f"{name}, batch {batch}, {size} pixels", variant, spread(values, ".0f"), spread(ratios, ".3f")])
    return table(["training step of", "attention", "ms", "of none, round by round"], rows)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--modules", default=",".join(CASES))
    parser.add_argument("--batch", type=int, default=None, help="by default 16 on a CPU, 256 on a GPU")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--side", type=int, default=56, help="height and width")
    parser.add_argument("--dtype", default=None, help="by default float32 on a CPU, bfloat16 on a GPU")
    parser.add_argument("--memory", choices=["contiguous", "channels_last"], default="contiguous")
    parser.add_argument("--compiled", choices=["yes", "no"], default="yes", help="also time with torch.compile")
    parser.add_argument("--network", default="resnet50", help="network to time training steps of; none: skip them")
    parser.add_argument("--network_batch", type=int, default=32)
    parser.add_argument("--network_size", type=int, default=224)
    options = parser.parse_args()
    device = torch.device(options.device)
    gpu = device.type == "cuda"
    dtype = getattr(torch, options.dtype or ("bfloat16" if gpu else "float32"))
    batch = options.batch or (256 if gpu else 16)
    torch.manual_seed(0)
    parts = []
    if options.modules:
        x = torch.randn(batch, options.channels, options.side, options.side, device=device, dtype=dtype)
        x = x.to(memory_format=getattr(torch, f"{options.memory}{'_format' if options.memory == 'contiguous' else ''}"))
        table, note = modules_table(options.modules.split(","), x, options.repeats, options.compiled == "yes")
        about = f"Features {tuple(x.shape)}, {str(dtype).removeprefix('torch.')}, {options.memory}; "
        parts += [f"{about}medians of {options.repeats}. Kernels: {attention.kernels.backend(device)}. {note}", table]
    if options.network != "none":
        network = network_table(
            options.network, options.network_batch, options.network_size, device, options.repeats, dtype
        )
        parts.append(network)
    publish("Attention modules", "\n\n".join(parts), device, save=not options.dry)


if __name__ == "__main__":
    main()
