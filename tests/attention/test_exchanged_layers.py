"""Attention keeps running when other code replaces, copies, fuses or traces the layers it is attached to."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable

import pytest
import torch
from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d, unfreeze_batch_norm_2d
from timm.models._efficientnet_blocks import InvertedResidual
from timm.utils import ModelEmaV3, reparameterize_model
from torch import Tensor, distributed, fx, nn
from torch.ao import quantization
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.fx.experimental.optimization import fuse
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim.swa_utils import AveragedModel
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.resnet import BasicBlock

from regard import attention, models
from regard.models.norms import sync_norms


class Unit(nn.Sequential):
    """A convolution and a norm that fuse into one convolution, as in timm's RepViT, LeViT and TinyViT."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))

    def fuse(self) -> nn.Module:
        return fuse_conv_bn_eval(*self)


class UnitBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = Unit(), Unit()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.conv1(x)))


def network_of(make: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), make(), make(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "torchvision": lambda: network_of(lambda: BasicBlock(8, 8)),
    "timm": lambda: network_of(lambda: InvertedResidual(8, 8)),  # its batch norms have an activation
    "units": lambda: network_of(UnitBlock),
    "slots": lambda: models.create("cifar-resnet11", 5),
}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model(request) -> nn.Module:
    torch.manual_seed(0)
    where = ["*.conv2"] if request.param == "units" else "branch"
    model = randomized(attention.attach(NETWORKS[request.param](), "se", where=where))
    plain = attention.detach(copy.deepcopy(model))
    assert not torch.allclose(plain(IMAGES), model(IMAGES), rtol=1e-2)
    return model


@torch.no_grad()
def randomized(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, with randomised parameters and matching statistics."""
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    model.train()(IMAGES)
    return model.eval()


def quantization_prepared(model: nn.Module) -> nn.Module:
    model.qconfig = quantization.get_default_qconfig("x86")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return quantization.prepare(model)


def features_extracted(model: nn.Module) -> nn.Module:
    last = next(name for name, module in reversed(list(model.named_modules())) if isinstance(module, nn.Linear))
    extractor = create_feature_extractor(model, [last])

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = extractor

        def forward(self, images: Tensor) -> Tensor:
            return self.network(images)[last]

    return Logits()


def pickled(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


EXCHANGES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "torch's synchronised norms": nn.SyncBatchNorm.convert_sync_batchnorm,
    "timm's synchronised norms": convert_sync_batchnorm,
    "regard's synchronised norms": lambda model: sync_norms(model, torch.device("cuda")),
    "frozen norms": freeze_batch_norm_2d,
    "frozen and unfrozen norms": lambda model: unfreeze_batch_norm_2d(freeze_batch_norm_2d(model)),
    "fx trace": fx.symbolic_trace,
    "fx fusion": fuse,
    "feature extractor": features_extracted,
    "reparameterized": reparameterize_model,
    "quantization prepared": quantization_prepared,
    "copy": copy.deepcopy,
    "pickle": pickled,
    "timm's average": lambda model: ModelEmaV3(model).module,
    "torch's average": lambda model: AveragedModel(model, use_buffers=True).module,
    "folded": attention.fold,
}


# torch replaces timm's norms by its own layers, which have no activation.
CASES = [(network, name) for network in NETWORKS for name in EXCHANGES if (network, name[:5]) != ("timm", "torch")]


@pytest.mark.parametrize(("model", "name"), CASES, indirect=["model"])
@torch.no_grad()
def test_attention_runs_after_the_exchange(model, name) -> None:
    exchanged = EXCHANGES[name](copy.deepcopy(model)).eval()
    torch.testing.assert_close(exchanged(IMAGES), model(IMAGES), rtol=1e-3, atol=1e-4)
    attached_names = list(attention.attached(exchanged))
    assert [name.removeprefix("network.") for name in attached_names] == list(attention.attached(model))


@pytest.mark.parametrize(("network", "start"), [("torchvision", "published"), ("slots", "identity")])
def test_fully_sharded_networks_keep_attention(network, start, tmp_path) -> None:
    torch.manual_seed(0)
    model = attention.attach(NETWORKS[network](), "se", start=start)
    expected, plain = model.train()(IMAGES), model.state_dict()
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        sharded = copy.deepcopy(model)
        for module in list(sharded.modules()):
            if isinstance(module, attention.WithAttention | attention.IdentityStart):
                fully_shard(module, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        output = sharded(IMAGES)
        torch.testing.assert_close(output, expected)
        output.sum().backward()
        assert all(parameter.grad is not None for parameter in sharded.parameters())
        optimizer = torch.optim.SGD(sharded.parameters(), lr=0.1, momentum=0.9)
        optimizer.step()
        state, optimizer_state = get_state_dict(sharded, optimizer)
        assert list(state) == list(sharded.state_dict()) == list(plain)
        new_state = {name: value + 1 for name, value in state.items()}
        set_state_dict(sharded, optimizer, model_state_dict=new_state, optim_state_dict=optimizer_state)
        assert all(torch.equal(value, new_state[name]) for name, value in sharded.state_dict().items())
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("kinds", [set(), {attention.WithAttention}, {nn.BatchNorm2d, nn.Conv2d}])
def test_networks_in_fsdp1_keep_attention(kinds, tmp_path) -> None:
    model = attention.attach(NETWORKS["torchvision"](), "se")
    plain = copy.deepcopy(model.state_dict())
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        policy = ModuleWrapPolicy(kinds) if kinds else None
        sharded = FullyShardedDataParallel(
            copy.deepcopy(model), auto_wrap_policy=policy, device_id=torch.device("cpu"), use_orig_params=True
        )
        state = sharded.state_dict()
        assert [name.replace("without_attention.", "") for name in state] == list(plain)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        assert not any(model.load_state_dict(state)) and not any(sharded.load_state_dict(model.state_dict()))
        assert all(torch.equal(value, plain[name]) for name, value in model.state_dict().items())
        torch.testing.assert_close(sharded.eval()(IMAGES), model.eval()(IMAGES))
    finally:
        distributed.destroy_process_group()


def test_attention_follows_fused_units() -> None:
    model = attention.attach(NETWORKS["units"](), "se", where=["*.conv2"])
    assert list(attention.attached(model)) == [f"{i}.conv2.attention" for i in (1, 2)]
    fused = reparameterize_model(model.eval())
    assert isinstance(fused[1].conv2.without_attention, nn.Conv2d)


@pytest.mark.parametrize("where", ["branch", "block", ["0", "1.relu", "2"]])
def test_state_dicts_keep_the_names_of_the_plain_network(where) -> None:
    model = NETWORKS["torchvision"]()
    plain = model.state_dict()
    attention.attach(model, "se", where=where)
    modules = attention.attached(model)
    state = model.state_dict()
    assert [name for name in state if not name.startswith(tuple(modules))] == list(plain)
    assert all(torch.equal(state[name], value) for name, value in plain.items())
    for name, module in modules.items():
        assert [key for key in state if key.startswith(f"{name}.")] == [f"{name}.{key}" for key in module.state_dict()]
        assert model.get_submodule(name) is module
    # the version of each layer, which torch uses to read older state dicts
    assert {name: state._metadata[name] for name in plain._metadata} == plain._metadata

    other = attention.attach(NETWORKS["torchvision"](), "se", where=where)
    with torch.no_grad():
        expected = model.eval()(IMAGES)
        torch.testing.assert_close(torch.func.functional_call(other.eval(), state, (IMAGES,)), expected)
        assert not torch.allclose(other(IMAGES), expected)
    other.load_state_dict({**dict(model.named_parameters()), **dict(model.named_buffers())})
    torch.testing.assert_close(other(IMAGES), expected)
    other.load_state_dict(state)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in state.items())
    first = next(iter(modules))
    incomplete = {name: value for name, value in state.items() if name not in ("1.bn2.weight", f"{first}.fc1.bias")}
    missing, unexpected = other.load_state_dict({**incomplete, "1.bn2.scale": torch.ones(1)}, strict=False)
    assert set(missing) == {"1.bn2.weight", f"{first}.fc1.bias"}
    assert unexpected == ["1.bn2.scale"]
    with pytest.raises(RuntimeError, match="1.bn2.weight"):
        other.load_state_dict(incomplete)


def test_layers_with_attention_expose_the_layer_attributes() -> None:
    model = attention.attach(NETWORKS["torchvision"](), "se")
    norm = model[1].bn2
    assert norm.num_features == 8 and norm.weight is norm.without_attention.weight
    norm.momentum = 0.5
    assert norm.without_attention.momentum == 0.5
    with pytest.raises(AttributeError, match="reset_running_stats would bypass the attention"):
        norm.reset_running_stats()
    with pytest.raises(AttributeError, match="nothing"):
        _ = norm.nothing
