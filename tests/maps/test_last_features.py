"""The default layer of maps."""

from functools import partial

import pytest
import timm
import torch
import torchvision
from torch import nn

from regard import attention, models
from regard.errors import InputError
from regard.maps import GradCAM
from regard.maps.layers import last_features

TIMM = {
    "resnet50": "layer4",
    "resnetv2_50": "stages.3",
    "regnetx_002": "s4",
    "regnetz_b16": "final_conv",
    "densenet121": "features.denseblock4",
    "vgg11_bn": "features.27",
    "convnext_atto": "stages.3",
    "efficientnet_lite0": "bn2",
    "mobilenetv2_050": "bn2",
    "mobilenetv3_small_050": "blocks.5",  # its last convolution comes after the pooling
    "rexnet_100": "features.16",
    "eca_nfnet_l0": "final_act",
    "hrnet_w18_small": "final_layer",
    "dla34": "level5",
    "mobilevit_xxs": "final_conv",  # convolutions after the last attention
    "vit_tiny_patch16_224": "blocks.11.norm1",
    "deit_tiny_distilled_patch16_224": "blocks.11.norm1",
    "eva02_tiny_patch14_224": "blocks.11.norm1",
    "convit_tiny": "blocks.11.norm1",
    "cait_xxs24_224": "blocks_token_only.1.norm1",
    "vit_base_patch16_siglip_224": "blocks.11",  # no class token
    "mixer_s16_224": "blocks.7",
    "swin_tiny_patch4_window7_224": "layers.3",
    "swinv2_tiny_window8_256": "layers.3",
    "twins_svt_small": "blocks.3.3",
    "nest_tiny": "levels.2",  # its blocks give windows of tokens (N, T, P, C)
    "maxvit_rmlp_pico_rw_256": "stages.3",
}
TORCHVISION = {
    "resnet18": "layer4",
    "wide_resnet50_2": "layer4",
    "densenet121": "features.denseblock4",
    "vgg11": "features.19",
    "mobilenet_v2": "features.18",
    "mobilenet_v3_small": "features.12",
    "efficientnet_b0": "features.8",
    "shufflenet_v2_x0_5": "conv5",
    "convnext_tiny": "features.7",
    "squeezenet1_1": "features.12",
    "googlenet": "inception5b",
    "inception_v3": "Mixed_7c",
    "swin_t": "features.7.1",
    "vit_b_16": "encoder.layers.encoder_layer_11.ln_1",
}


@pytest.mark.parametrize("name", TIMM)
def test_last_features_of_timm_models(name, monkeypatch):
    # Some versions read these values while they create a network.
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=5)
    assert last_features(model) == TIMM[name]
    model.get_submodule(TIMM[name])


@pytest.mark.parametrize("name", TORCHVISION)
def test_last_features_of_torchvision_models(name):
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        model = torchvision.models.get_model(name, num_classes=5, **options)
    assert last_features(model) == TORCHVISION[name]


@pytest.mark.parametrize(
    ("name", "layer"), [("cifar-resnet11", "layer3"), ("wrn-10-1", "group2"), ("preact-resnet18", "group3")]
)
def test_last_features_of_regard_models(name, layer):
    assert last_features(models.create(name, 5)) == layer


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "convnext_atto", "cifar-resnet11"])
def test_attached_attention_does_not_change_the_layer(name):
    model = models.create(name, 5)
    before = last_features(model)
    attention.attach(model, "cbam")
    attention.attach(model, "bam", where="stage")
    assert last_features(model) == before


def test_networks_in_a_sequential_need_a_layer_name():
    model = nn.Sequential(nn.BatchNorm2d(3), models.create("resnet18", 5))
    with pytest.raises(InputError, match="name the layers instead"):
        last_features(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten()))
    assert GradCAM(model, "1.layer4").layer == "1.layer4"


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = timm.create_model("resnet18", num_classes=0)
        self.classifier = nn.Linear(512, 5)

    def forward(self, x):
        return self.classifier(self.encoder(x))


def test_encoders_are_searched():
    """The encoder itself, which pools, gives no spatial features."""
    assert last_features(Classifier()) == "encoder.layer4"


@pytest.mark.parametrize("name", ["coat_tiny", "resmlp_12_224"])
def test_networks_without_stages(name):
    """A network with several branches fails; one without attention uses its last block."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=5)
    if name == "coat_tiny":
        with pytest.raises(InputError, match="CoaT has no stages that regard recognises .* name the layers instead"):
            last_features(model)
    else:
        assert last_features(model) == "blocks.11"


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "mobilenetv3_small_050", "convnext_atto"])
def test_default_layer_gives_maps_of_feature_size(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    assert GradCAM(model)(torch.randn(1, 3, 64, 64), upsample=False).shape == (1, 2, 2)
