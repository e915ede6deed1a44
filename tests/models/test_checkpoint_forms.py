"""Checkpoints in common formats, and broken and hostile files: one line of error, in bounded time and memory."""

from __future__ import annotations

import io
import json
import tarfile
import time
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from regard import InputError, models, training
from regard.cli import main

NAME = "wrn-10-0.5"


def network(seed: int = 0, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return models.create(NAME, classes)


STATE = network().state_dict()
AVERAGE = network(1).state_dict()


def prefixed(prefix: str, state: dict = STATE) -> dict:
    return {f"{prefix}{name}": value for name, value in state.items()}


def equal(model: nn.Module, state: dict) -> bool:
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


OPTIMIZER = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}

FORMS = {
    "DataParallel of compiled": prefixed("module._orig_mod."),
    "compiled DataParallel": prefixed("_orig_mod.module."),
    "AveragedModel": {"n_averaged": torch.tensor(5), **prefixed("module.")},
    **{
        key: {"epoch": 3, key: STATE, "optimizer": OPTIMIZER, "optimizer_state_dict": {}, "loss": 0.1}
        for key in ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "my_net")
    },
    "two dicts": {"checkpoint": {"model": {"state_dict": STATE}}},
    **{f"prefix {prefix}": prefixed(prefix) for prefix in ("model.", "backbone.", "encoder.", "net.", "model.net.")},
    "prefix and wrapper": {"state_dict": prefixed("model.module.")},
    "Lightning with a loss": {"state_dict": {**prefixed("model."), "criterion.weight": torch.ones(3)}, "callbacks": {}},
    "weights and average": {"state_dict": STATE, "state_dict_ema": AVERAGE},
    "average first": {"model_ema": AVERAGE, "model": STATE},
    "ema beside model": {"ema": AVERAGE, "model": STATE, "scaler": None},
    "nested average": {"model": STATE, "ema": {"decay": 0.9, "shadow": AVERAGE}},
    "average by prefix": {"state_dict": {**prefixed("ema_model.module.", AVERAGE), **prefixed("model.")}},
    "student and teacher": {"student": prefixed("module."), "teacher": AVERAGE, "center_loss": {"c": torch.ones(1)}},
    "DeepSpeed with a loss": {"module": STATE, "optimizer": {"exp_avg": torch.zeros(2)}},
    "optimizer by names with a loss": {"model": STATE, "optimizer": {"state": {n: {"m": v} for n, v in STATE.items()}}},
    "FSDP around parts": {n.replace("block0.", "block0._fsdp_wrapped_module."): v for n, v in STATE.items()},
    "OpenMMLab": {
        "meta": {"epoch": 3},
        "state_dict": {f"head.{n}" if n.startswith("fc.") else f"backbone.{n}": v for n, v in STATE.items()},
    },
    "average alone": {"state_dict_ema": STATE},
    "options of timm": {"epoch": 3, "arch": "wrn", "state_dict": STATE, "args": Namespace(lr=0.1, betas=(0.9, 0.99))},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_checkpoint_form_loads(form, tmp_path) -> None:
    torch.save(FORMS[form], tmp_path / "c.pth")
    messages: list[str] = []
    assert equal(models.load_official(network(9), tmp_path / "c.pth", log=messages.append), STATE)
    assert equal(training.load_pretrained(f"{NAME}={tmp_path / 'c.pth'}").model(), STATE)
    assert models.count_classes(models.read_checkpoint(tmp_path / "c.pth")) == 3
    has_average = any("average" in form or form == key for key in ("ema beside model", "student and teacher"))
    if has_average and form != "average alone":
        assert len(messages) == 1 and "--ema loads" in messages[0]
        assert equal(models.load_official(network(9), FORMS[form], ema=True), AVERAGE)
    elif form != "average alone":
        assert len(messages) == ("loss" in form)
        with pytest.raises(InputError, match="no moving average"):
            models.load_official(network(9), FORMS[form], ema=True)


def test_commands_name_both_state_dicts_and_ema_chooses(workdir, capsys) -> None:
    torch.save({"state_dict": STATE, "state_dict_ema": AVERAGE}, "both.pth.tar")
    torch.save(STATE, "one.pth")
    data = ["--data.name=clutter", "--data.options={train: 20, test: 20}", "--device=cpu"]
    ten = {"state_dict": network(0, 10).state_dict(), "state_dict_ema": network(1, 10).state_dict()}
    torch.save(ten, "ten.pth")
    for options, state in (([], STATE), (["--ema"], AVERAGE)):
        status, _, notes = run(
            capsys, "import", "both.pth.tar", f"--model={NAME}", "--out=a.safetensors", "--overwrite", *options
        )
        assert status == 0 and "'state_dict'" in notes and "'state_dict_ema'" in notes
        assert equal(training.load_pretrained("a.safetensors").model(), state)
        status, out, notes = run(capsys, "evaluate", f"{NAME}=ten.pth", *data, *options)
        assert status == 0 and "'state_dict'" in notes and "'state_dict_ema'" in notes
        assert ("moving average" in out) == ("ten.pth --ema" in notes) == bool(options)
    for arguments in (
        ["import", "one.pth", f"--model={NAME}", "--out=b.safetensors", "--ema"],
        ["evaluate", "a.safetensors", *data, "--ema"],
    ):
        status, _, err = run(capsys, *arguments)
        assert status == 2 and "--ema" in err and err.count("regard: ") == 1


def test_ambiguous_state_dicts_are_named_in_the_error() -> None:
    with pytest.raises(InputError, match="generator, discriminator"):
        models.load_official(network(), {"generator": STATE, "discriminator": AVERAGE})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_leaving_out_auxiliary_heads_is_logged(name) -> None:
    def create(**options: bool) -> nn.Module:
        with torch.device("meta"):
            model = models.create(f"torchvision/{name}", 4, init_weights=False, **options)
        return model.to_empty(device="cpu")

    complete = create(aux_logits=True)
    for i, value in enumerate(complete.state_dict().values()):
        value.fill_(i)
    published = {key: value.clone() for key, value in complete.state_dict().items()}
    assert models.count_classes(published) == 4
    messages: list[str] = []
    loaded = models.load_official(create(), published, log=messages.append)
    assert equal(loaded, published) and len(messages) == 1 and "auxiliary" in messages[0]
    assert equal(models.load_official(complete, published, log=messages.append), published) and len(messages) == 1


def archive_bytes(write, name: str) -> bytes:
    buffer = io.BytesIO()
    write(buffer, name)
    return buffer.getvalue()


def write_zip(buffer: io.BytesIO, name: str) -> None:
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "x")


def write_tar(buffer: io.BytesIO, name: str) -> None:
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))


def compressed_zip() -> bytes:
    source, target = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(100_000)}, source)
    with zipfile.ZipFile(source) as stored, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as deflated:
        for member in stored.namelist():
            deflated.writestr(member, stored.read(member))
    return target.getvalue()


def torch_bytes(content: object, **options: int) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def torchscript_zip() -> bytes:
    buffer = io.BytesIO()
    zipped_names = ("net/data.pkl", "net/constants.pkl", "net/code/__torch__.py")
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in zipped_names:
            archive.writestr(name, "x")
    return buffer.getvalue()


OTHER_FILES = {
    "empty": (b"", "empty"),
    "page": (b"<!DOCTYPE html><html>404</html>", "web page"),
    "page with a mark": (b"\xef\xbb\xbf\n <html>", "web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS"),
    "json": (json.dumps({"message": "Not Found"}).encode(), "JSON"),
    "text": (b"Access denied\n", "Access denied"),
    "zip": (archive_bytes(write_zip, "a/readme.txt"), "a/readme.txt"),
    "tar": (archive_bytes(write_tar, "model.bin"), "tar archive"),
    "gzip": (b"\x1f\x8b\x08\x00", "gzip"),
    "keras": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "script": (torchscript_zip(), "TorchScript"),
    "compressed": (compressed_zip(), "compressed"),
    "module": (torch_bytes(nn.Linear(2, 2)), "whole module"),
    "module in the old format": (
        torch_bytes({"model": nn.Linear(2, 2)}, _use_new_zipfile_serialization=False),
        "whole module",
    ),
    "list": (torch_bytes([torch.zeros(2)]), "list"),
    "protocol 4": (torch_bytes({"a": torch.zeros(2)}, pickle_protocol=4), "pickle of protocol 4"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_other_file_types_are_named_in_the_error(kind, workdir, capsys) -> None:
    content, word = OTHER_FILES[kind]
    for name in ("c.pth", "c.safetensors"):
        (workdir / name).write_bytes(content)
        with pytest.raises(InputError, match=word):
            models.load_official(network(), name)
    for arguments in (
        ["import", "c.pth", f"--model={NAME}", "--out=x.safetensors"],
        ["evaluate", f"{NAME}=c.safetensors", "--data.name=clutter"],
    ):
        status, _, err = run(capsys, *arguments)
        assert status == 2 and word in err and err.count("regard: ") == 1, err
    assert sorted(path.name for path in workdir.iterdir()) == ["c.pth", "c.safetensors"]


def test_the_format_is_recognised_by_content(workdir) -> None:
    save_file(STATE, "a.pth")
    torch.save(STATE, "a.safetensors")
    torch.save(STATE, "b.pth", pickle_protocol=3, _use_new_zipfile_serialization=False)
    for name in ("a.pth", "a.safetensors", "b.pth"):
        assert equal(models.load_official(network(9), name), STATE)


def bomb(width: int, depth: int, kind: type) -> object:
    value = kind()
    for _ in range(depth):
        value = kind([value] * width) if kind is not dict else {str(i): value for i in range(width)}
    return value


def zip_with_pickle(content: bytes) -> bytes:
    """A file in the format of `torch.save` with this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", content)
        archive.writestr("a/version", "3")
        archive.writestr("a/byteorder", "little")
    return buffer.getvalue()


def tuple_key(depth: int) -> bytes:
    """{((((…)))): 1}: each tuple contains the previous one four times, so that hashing takes 4^depth steps."""
    code = b"\x80\x02}(("
    code += b"tq\x00"
    for i in range(depth):
        code += b"(" + bytes((ord("h"), i)) * 4 + bytes((ord("t"), ord("q"), i + 1))
    return code + b"K\x01u."


CYCLIC_DICT: dict = {}
CYCLIC_DICT["model"] = CYCLIC_DICT
CYCLIC_LIST: list = []
CYCLIC_LIST.append(CYCLIC_LIST)

HOSTILE = {
    "tuple bomb": torch_bytes({"args": bomb(4, 15, tuple)}),
    "dict bomb": torch_bytes({"model": bomb(4, 15, dict)}),
    "list bomb, old format": torch_bytes(bomb(4, 15, list), _use_new_zipfile_serialization=False),
    "tuples as a key": zip_with_pickle(tuple_key(40)),
    "dict in itself": torch_bytes(CYCLIC_DICT),
    "whole numbers for names": torch_bytes({0: torch.zeros(2), 1: torch.zeros(2)}),
    "whole numbers in a state dict": torch_bytes({"state_dict": {0: torch.zeros(2)}}),
    "nothing for a name": torch_bytes({None: torch.zeros(2)}),
    "expanded": torch_bytes({**STATE, "fc.weight": torch.zeros(1, 32).expand(50_000_000, 32)}),
    "expanded, old format": torch_bytes(
        {**STATE, "fc.weight": torch.zeros(1, 32).expand(50_000_000, 32)}, _use_new_zipfile_serialization=False
    ),
    "rows without columns": torch_bytes({**STATE, "fc.weight": torch.zeros(50_000_000, 0)}),
    "of no device": torch_bytes({**STATE, "fc.weight": torch.zeros(50_000_000, 32, device="meta")}),
    "sparse": torch_bytes({**STATE, "fc.weight": torch.sparse_coo_tensor(size=(3, 32), check_invariants=True)}),
    "complex": torch_bytes({**STATE, "fc.bias": STATE["fc.bias"] * 1j}),
    "other columns": torch_bytes({**STATE, "fc.weight": torch.zeros(200_000, 1)}),
    "deep": zip_with_pickle(b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b"."),
}


@pytest.mark.parametrize("extra", [bomb(4, 15, list), bomb(4, 15, dict), CYCLIC_LIST, CYCLIC_DICT])
def test_large_values_beside_the_weights_are_not_traversed(extra, tmp_path) -> None:
    torch.save({"state_dict": STATE, "args": extra}, tmp_path / "c.pth")
    start = time.process_time()
    assert equal(models.load_official(network(9), tmp_path / "c.pth"), STATE)
    assert time.process_time() - start < 30


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_checkpoints_are_refused_in_bounded_time(kind, workdir, capsys) -> None:
    (workdir / "c.pth").write_bytes(HOSTILE[kind])
    start = time.process_time()
    for arguments in (
        ["import", "c.pth", f"--model={NAME}", "--out=x.safetensors"],
        ["evaluate", f"{NAME}=c.pth", "--data.name=clutter", "--data.options={train: 20, test: 20}", "--device=cpu"],
    ):
        status, _, err = run(capsys, *arguments)
        assert status == 2 and err.count("regard: ") == 1 and len(err) < 1000, err
    assert time.process_time() - start < 60  # processor time, which does not depend on the load of the machine
    assert [path.name for path in workdir.iterdir()] == ["c.pth"]


def test_shared_containers_and_expanded_tensors_are_accepted(tmp_path) -> None:
    """Both occur in ordinary checkpoints."""
    betas = [0.9, 0.999]
    scheduler = {"milestones": Counter([30, 60, 60])}
    ids = torch.arange(9).expand(2, 9)
    torch.save({"model": STATE, "a": betas, "b": [betas, betas], "ids": ids, "scheduler": scheduler}, tmp_path / "c")
    content = models.read_checkpoint(tmp_path / "c")
    assert content["scheduler"]["milestones"] == {30: 1, 60: 2}
    assert content["b"] == [betas, betas] and content["ids"].shape == (2, 9)
    ordered = OrderedDict(a=1, b=torch.ones(1))
    torch.save(ordered, tmp_path / "c")
    assert list(models.read_checkpoint(tmp_path / "c")) == ["a", "b"]


CLAIMS = {
    "1e300 classes": {"classes": 1e300},
    "10^300 classes": {"classes": 10**300},
    "5e7 classes": {"classes": 50_000_000},
    "no classes": {"classes": None},
    "a number for a name": {"network": {"name": 5}},
    "a network that is a list": {"network": [1]},
    "another field": {"network": {"name": NAME, "widht": 3}},
    "options that are text": {"network": {"name": NAME, "options": "x"}},
    "an option of another type": {"network": {"name": NAME, "attention": "se", "gate": 3.5}},
    "another network": {"network": {"name": "wrn-10-900"}},
    "a network of 10^9 blocks": {"network": {"name": "vit_tiny_patch16_224", "options": {"depth": 10**9}}},
    "a network of 10^4 blocks": {"network": {"name": "wrn-9994-1"}},
    "a gate of any order": {"network": {"name": NAME, "attention": "se", "gate": f"sub-attention-{'9' * 5000}"}},
    "a name of a million letters": {"network": {"name": "x" * 10**6}},
    "a network of many blocks": {"network": {"name": "wrn-90000000004-1"}},
    "names that are numbers": {"class_names": [1, 2, 3]},
    "fewer names": {"class_names": ["a", "b"]},
    "a size of 1e300": {"preprocessing": {"size": 1e300}},
    "a size of 10^9": {"preprocessing": {"size": 10**9}},
    "an infinite mean": {"preprocessing": {"mean": [float("inf")] * 3, "std": [1, 1, 1]}},
    "a crop of 10^400": {"preprocessing": {"crop_pct": 10**400}},
    "another crop": {"preprocessing": {"crop_mode": 7}},
    "nothing of the images": {"preprocessing": None},
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_notes_of_an_imported_file_are_validated(claim, workdir, capsys) -> None:
    torch.save(STATE, "c.pth")
    training.import_weights("c.pth", training.ModelRecipe(NAME), "good.safetensors")
    notes = models.read_notes("good.safetensors")
    save_file(STATE, "bad.safetensors", metadata={"notes": json.dumps({**notes, **CLAIMS[claim]})})
    status, _, err = run(
        capsys, "evaluate", "bad.safetensors", "--data.name=clutter", "--data.options={train: 20, test: 20}"
    )
    assert status == 2 and "bad.safetensors" in err + claim * ("another network" in claim), err
    assert err.count("regard: ") == 1 and len(err) < 1000, err


@pytest.mark.parametrize("notes", ["[" * 100_000, "[1]", "{", '{"network": NaN}'])
def test_malformed_notes_are_refused(notes, workdir, capsys) -> None:
    save_file(STATE, "bad.safetensors", metadata={"notes": notes})
    status, _, err = run(capsys, "evaluate", "bad.safetensors", "--data.name=clutter")
    assert status == 2 and "bad.safetensors" in err and err.count("regard: ") == 1


class PlainBlock(nn.Module):
    """A block of the CIFAR ResNets of github.com/akamaster/pytorch_resnet_cifar10, reimplemented."""

    def __init__(self, ins: int, outs: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outs)
        self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outs)
        self.shortcut: nn.Module = nn.Sequential()
        self.padded = (stride != 1 or ins != outs) and option == "A"
        if (stride != 1 or ins != outs) and option == "B":
            self.shortcut = nn.Sequential(nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.padded:
            quarter = torch.zeros_like(out[:, : out.shape[1] // 4])
            return torch.relu(out + torch.cat((quarter, x[:, :, ::2, ::2], quarter), 1))
        return torch.relu(out + self.shortcut(x))


class PlainResNet(nn.Module):
    def __init__(self, blocks: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        ins = 16
        for number, (outs, stride) in enumerate(((16, 1), (32, 2), (64, 2)), start=1):
            stage = [PlainBlock(ins if i == 0 else outs, outs, stride if i == 0 else 1, option) for i in range(blocks)]
            self.add_module(f"layer{number}", nn.Sequential(*stage))
            ins = outs
        self.linear = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(images)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


@pytest.mark.parametrize("option", ["A", "B"])
def test_common_cifar_resnet_checkpoints_load(option, workdir, capsys) -> None:
    """The name `cifar-resnet20` is enough: blocks and shortcuts are inferred from the checkpoint."""
    torch.manual_seed(0)
    original = PlainResNet(3, option)
    original(torch.randn(8, 3, 32, 32))  # sets the running statistics
    state = {f"module.{name}": value for name, value in original.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 92.6}, "resnet20.th")
    assert run(capsys, "import", "resnet20.th", "--model=cifar-resnet20", "--out=r.safetensors")[0] == 0
    images = torch.randn(2, 3, 32, 32)
    expected = original.eval()(images)
    by_hand = models.create("cifar-resnet20", 10, block="basic", shortcut=option)
    for model in (
        training.load_pretrained("r.safetensors").model(),
        training.load_pretrained("cifar-resnet20=resnet20.th").model(),
        models.load_official(by_hand, "resnet20.th").eval(),
    ):
        assert torch.allclose(model(images), expected, atol=1e-6)
    assert models.complexity(by_hand, 32).multiply_adds == pytest.approx(41e6, rel=0.02)
    with pytest.raises(InputError, match="shortcut 'C'"):
        models.create("cifar-resnet20", block="basic", shortcut="C")
