"""Layer outputs arranged as features (N, C, H, W)."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from regard.errors import InputError
from regard.maps import ActivationMap, GradCAM, HiResCAM, Taps, create
from regard.maps.features import arrangement


def arranged(output, size=None, model=None, name="layer", reshape=None):
    images = None if size is None else torch.zeros(len(output), 3, *size)
    return arrangement(model or nn.Module(), name, output, images, reshape)(output)


@pytest.mark.parametrize(
    ("shape", "size", "channels_last"),
    [
        ((2, 8, 7, 7), (224, 224), False),
        ((2, 7, 7, 8), (224, 224), True),
        ((2, 7, 7, 7), (224, 224), False),  # both layouts fit
        ((2, 5, 3, 9), (224, 224), False),  # neither layout fits
        ((2, 64, 2, 3), (33, 70), False),  # a stride of 32, rounded up
        ((2, 2, 3, 64), (33, 70), True),
        ((2, 1, 1, 512), (64, 64), True),
        ((2, 512, 1, 1), (64, 64), False),
        ((2, 7, 7, 8), None, False),
    ],
)
def test_channels_last_is_recognised_by_the_aspect_ratio(shape, size, channels_last):
    output = torch.randn(shape)
    result = arranged(output, size)
    assert torch.equal(result, output.permute(0, 3, 1, 2) if channels_last else output)
    assert result.data_ptr() == output.data_ptr()


def test_ambiguous_layouts_follow_the_model():
    model = nn.Module()
    model.output_fmt = "NHWC"
    output = torch.randn(2, 7, 7, 7)
    for size in ((224, 224), None):
        assert torch.equal(arranged(output, size, model), output.permute(0, 3, 1, 2))
    assert arranged(torch.randn(2, 12, 7, 7), (224, 224), model).shape == (2, 12, 7, 7)


@pytest.mark.parametrize(
    ("tokens", "size", "prefix", "grid"),
    [
        (196, (224, 224), 0, (14, 14)),
        (197, (224, 224), 1, (14, 14)),
        (198, (224, 224), 2, (14, 14)),
        (201, (224, 224), 5, (14, 14)),
        (49, (96, 128), 1, (6, 8)),
        (48, (96, 128), 0, (6, 8)),
        (17, None, 1, (4, 4)),
        (6, (33, 70), 0, (2, 3)),
    ],
)
def test_tokens_become_a_grid(tokens, size, prefix, grid):
    output = torch.randn(2, tokens, 3)
    result = arranged(output, size)
    assert result.shape == (2, 3, *grid)
    for i in range(grid[0]):
        for j in range(grid[1]):
            assert torch.equal(result[:, :, i, j], output[:, prefix + i * grid[1] + j])
    assert result.untyped_storage().data_ptr() == output.untyped_storage().data_ptr()  # a view


def test_token_grids_follow_the_model():
    model = nn.Module()
    model.num_prefix_tokens = 3
    model.patch_embed = nn.Module()
    model.patch_embed.patch_size = (8, 4)
    outer = nn.Module()
    outer.inner = model
    output = torch.randn(2, 3 + 4 * 8, 5)  # neither 35 = 3 + 32 nor 32 tokens are a square grid
    for part, name in ((model, "block"), (outer, "inner.block")):
        assert torch.equal(arranged(output, (32, 32), part, name), output[:, 3:].transpose(1, 2).unflatten(2, (4, 8)))
    model.patch_embed.patch_size = (16, 16)
    assert arranged(torch.randn(2, 3 + 6, 5), (40, 30), model).shape == (2, 5, 3, 2)  # padded to whole patches
    model.patch_embed.grid_size = (1, 7)
    assert arranged(torch.randn(2, 10, 5), (64, 64), model).shape == (2, 5, 1, 7)


def test_custom_reshape():
    output = torch.randn(2, 12)
    result = arranged(output, (8, 8), reshape=lambda tensor: tensor.reshape(2, 3, 2, 2))
    assert torch.equal(result, output.reshape(2, 3, 2, 2))
    with pytest.raises(
        InputError, match=r"reshape turns the output \(2, 12\) of layer .* into a tensor of shape \(24,\)"
    ):
        arranged(output, (8, 8), reshape=torch.flatten)


@pytest.mark.parametrize(
    ("output", "size", "message"),
    [
        (torch.zeros(2, 5), None, r"layer 'layer' gives a tensor of shape \(2, 5\)"),
        ((torch.zeros(2, 3, 4, 4),), None, "gives a tuple"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.int64), None, "gives a tensor"),
        (
            torch.zeros(2, 22, 3),
            (224, 224),
            "gives 22 tokens, .* no grid of an image of 224 x 224.*reshape=",
        ),
    ],
)
def test_unsupported_outputs_fail(output, size, message):
    with pytest.raises(InputError, match=message) as error:
        arranged(output, size)
    assert "\n" not in str(error.value)


def test_windowed_outputs_fail():
    with pytest.raises(InputError, match=r"of shape \(8, 49, 3\) for 2 images"):
        arrangement(nn.Module(), "attn", torch.zeros(8, 49, 3), torch.zeros(2, 3, 28, 28))


def test_reordered_tokens_fail():
    with torch.device("meta"):
        model = timm.create_model("hiera_tiny_224", num_classes=3)
    with pytest.raises(InputError, match="Hiera's mask units, not of the image; pass reshape="):
        arrangement(model, "blocks.11", torch.zeros(1, 4, 768), torch.zeros(1, 3, 64, 64))


def vit(source):
    torch.manual_seed(0)
    if source == "timm":
        return timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=64, depth=2).double().eval()
    network = torchvision.models.VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=5)
    nn.init.normal_(network.heads.head.weight)
    return network.double().eval()


@pytest.mark.parametrize(("source", "layer"), [("timm", "blocks.1.norm1"), ("torchvision", "encoder_layer_1.ln_1")])
def test_vision_transformers(source, layer):
    """The default layer has gradients at every pixel, and the maps agree with plain autograd."""
    model, x = vit(source), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    method = HiResCAM(model)
    assert method.layer.endswith(layer)
    result = method(x, [1, 3], upsample=False)
    saved = []
    handle = model.get_submodule(method.layer).register_forward_hook(lambda *args: saved.append(args[2]))
    logits = model(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, 1] + logits[1, 3], saved[0])
    assert (gradient[:, 1:].abs().sum(2) > 0).all()
    expected = (gradient * saved[0])[:, 1:].sum(2).clamp(min=0).detach().reshape(2, 4, 4)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-14)
    assert method(x.requires_grad_()).shape == (2, 64, 64)
    for name in ("activation", "gradient"):
        assert create(name, model)(x).shape == (2, 64, 64)


def test_only_the_class_token_has_gradients_after_the_last_attention():
    """Therefore the default layer is the norm before the last attention."""
    model, x = vit("timm"), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert HiResCAM(model, "blocks.1")(x).abs().max() == 0
    assert HiResCAM(model)(x).max() > 0


def test_non_square_images():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=(32, 96), depth=1).eval()
    assert GradCAM(model)(torch.randn(2, 3, 32, 96), upsample=False).shape == (2, 2, 6)
    model = torchvision.models.SwinTransformer([4, 4], 16, [1, 1, 2], [1, 1, 1], [2, 2], num_classes=5).eval()
    assert GradCAM(model)(torch.randn(1, 3, 64, 128), upsample=False).shape == (1, 4, 8)


def test_swin_transformers():
    torch.manual_seed(0)
    options = {"img_size": 64, "window_size": 2, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2)}
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **options).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    features = model.forward_features(x)  # after the norm
    saved = []
    model.layers[1].register_forward_hook(lambda module, args, output: saved.append(output))
    with Taps(model, ["layers.0", "layers.1"]) as taps:
        logits = model(x)
        tapped = taps.features
    assert tapped["layers.0"].shape == (2, 24, 16, 16) and tapped["layers.1"].shape == (2, 48, 8, 8)
    torch.testing.assert_close(model.norm(tapped["layers.1"].permute(0, 2, 3, 1)), features)
    (gradient,) = torch.autograd.grad(logits[:, 2].sum(), saved[0])
    expected = (saved[0] * gradient).sum(3).clamp(min=0).detach()
    torch.testing.assert_close(HiResCAM(model)(x, 2, upsample=False), expected, rtol=1e-9, atol=1e-14)


def test_taps_of_a_transformer_carry_gradients():
    model, x = vit("timm"), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with Taps(model) as taps:
        model(x)
        assert [tuple(f.shape) for f in taps.features.values()] == [(2, 192, 4, 4)] * 2
        taps.features["blocks.0"].sum().backward()
    assert model.patch_embed.proj.weight.grad is not None
    with Taps(model, "norm", reshape=lambda tokens: tokens[:, :1, :, None].transpose(1, 2)) as taps:
        model(x)
        assert taps.features["norm"].shape == (2, 192, 1, 1)


def test_reshape_applies_to_gradients_too():
    model, x = vit("timm"), torch.randn(2, 3, 64, 64, dtype=torch.float64)

    def rows_only(tokens):
        return tokens[:, 1:].unflatten(1, (4, 4)).mean(2, keepdim=True).permute(0, 3, 1, 2)

    result = ActivationMap(model, reshape=rows_only)(x, upsample=False)
    assert result.shape == (2, 4, 1)
    assert GradCAM(model, reshape=rows_only)(x, upsample=False).shape == (2, 4, 1)
