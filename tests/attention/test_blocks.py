"""The table of blocks: each row names existing layers, whose outputs are what attention expects."""

from __future__ import annotations

import warnings

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from regard import attention, blocks

TIMM = (
    *(
        "efficientnet_b0",
        "tf_efficientnet_es",
        "mobilenetv4_hybrid_medium",
        "resnet33ts",
        "regnetz_d8_evos",
        "repvgg_a0",
    ),
    *("mobileone_s0", "convnext_atto", "test_convnext3", "cspdarknet53", "cspresnet50", "cs3edgenet_x", "cspnext_tiny"),
    *("densenet121", "dla34", "dla60", "dla60_res2net", "edgenext_xx_small", "efficientformerv2_s0", "fasternet_t0"),
    *(
        "fastvit_sa12",
        "ghostnet_050",
        "ghostnetv3_050",
        "gernet_s",
        "hgnetv2_b0",
        "inception_next_atto",
        "mambaout_femto",
    ),
    *("coatnet_nano_rw_224", "nextvit_small", "nf_regnet_b0", "regnetx_002", "regnetv_040", "repghostnet_050"),
    *("repvit_m0_9", "res2net50_14w_8s", "resnest14d", "resnet18", "resnet26", "resnetv2_18", "resnetv2_50"),
    *(
        "rexnet_100",
        "legacy_seresnet18",
        "legacy_seresnet50",
        "skresnet18",
        "skresnet50",
        "starnet_s1",
        "swiftformer_xs",
    ),
    *("tiny_vit_5m_224", "tresnet_m", "ese_vovnet19b_dw", "legacy_xception", "xception41", "xception41p"),
)
TORCHVISION = (
    *("convnext_tiny", "efficientnet_v2_s", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf"),
    *("resnet18", "resnet50", "densenet121", "shufflenet_v2_x0_5", "squeezenet1_0"),
)


def networks() -> dict[str, nn.Module]:
    """The networks, on the meta device."""
    result = {}
    with torch.device("meta"):
        for name in filter(timm.is_model, TIMM):  # an older timm has fewer
            result[name] = timm.create_model(name)
        for name in TORCHVISION:
            if not name.startswith("regnet"):
                result[f"torchvision/{name}"] = torchvision.models.get_model(name)
    result["torchvision/regnet_x_400mf"] = torchvision.models.regnet_x_400mf().to("meta")
    return result


class Recorder(nn.Module):
    """Stands for an attention module, and keeps the shape of its input."""

    def __init__(self, channels: int, **_: object) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        self.shape = x.shape
        return x


@pytest.mark.slow
def test_every_row_names_layers_with_the_expected_features(monkeypatch) -> None:
    monkeypatch.setattr(F, "batch_norm", lambda x, *_, **__: x)  # keeps the shape; batch norm is slow on meta tensors
    unused = {*blocks._RESIDUAL, *blocks._NOT_RESIDUAL}
    for name, model in networks().items():
        unused -= {kind for module in model.modules() for kind in blocks._class_names(module)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", attention.PlacementWarning)
            attention.attach(model, Recorder)
        modules = list(attention.attached(model).values())
        size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))[-1]
        model.eval()(torch.empty(2, 3, size, size, device="meta"))
        assert modules, name
        assert all(len(module.shape) == 4 and module.shape[1] == module.channels for module in modules), name
    assert not unused or not all(map(timm.is_model, TIMM)), unused
