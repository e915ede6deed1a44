"""Smoke test of an installed regard, in a writable working folder: `python smoke.py [EXTRA …]`.

Runs every command's help, then the library and small commands with the base dependencies alone, then the features of
the named extras, which have to be installed. Features that need other packages must end with one line that says what
to install. `make package` runs this file in a fresh environment; the tests run it with the base dependencies alone.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

from regard.cli.main import COMMANDS, main
from regard.optional import EXTRAS


def run(*arguments: str, status: int = 0) -> str:
    """Runs a command, checks its exit status, and returns its output, or its line of error if `status` is not 0."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            exit_status = main(arguments)
        except SystemExit as exit:  # raised by --help
            exit_status = exit.code
    text = out.getvalue() if status == 0 else err.getvalue()
    assert exit_status == status, f"regard {' '.join(arguments)} ended with {exit_status}: {err.getvalue()}"
    assert status == 0 or text.count("\n") == 1, f"regard {' '.join(arguments)}: more than one line of error\n{text}"
    return text


def missing(extra: str) -> list[str]:
    """Packages of an extra that are not installed."""
    return [package for module, package in EXTRAS[extra].items() if find_spec(module) is None]


def check_refused(extra: str, *arguments: str) -> None:
    """Checks that a command ends with one line that names the extra and its missing packages."""
    line = run(*arguments, status=2)
    assert f'pip install "regard[{extra}]"' in line, line
    names = re.findall(r"[\w-]+", line.partition(" needs ")[2].partition(":")[0])
    assert names and set(names) <= set(missing(extra)), line


def test_help_of_every_command() -> None:
    assert "explain" in run("--help")
    for command in COMMANDS:
        assert run(command, "--help").startswith(f"usage: regard {command}")


def test_library_without_extras() -> None:
    """Attention, transfer, saliency maps, bias and detection on plain modules and tensors."""
    import torch

    from regard import attention, bias, data, detection, maps, models, transfer

    torch.manual_seed(0)
    images, labels = torch.rand(8, 3, 32, 32), torch.arange(8) % 4
    regions = torch.zeros(8, 32, 32, dtype=torch.bool)
    regions[:, 8:24, 8:24] = True
    student, teacher = models.create("wrn-10-0.5", num_classes=4), models.create("wrn-10-0.5", num_classes=4)
    attention.attach(student, "se", gate=attention.SubAttention(order=1))
    losses = transfer.Objective(student, teacher, beta=1e3, alpha=0.9, temperature=4)(images, labels)
    losses.total.backward()
    assert attention.kernels.backend("cpu") == ("native" if shutil.which("g++") else "torch")
    cams = maps.GradCAM(student)(images)
    assert bias.measure(cams, regions).position_bias.shape == (8,)
    dataset = data.InMemoryDataset(
        (255 * images).byte(), labels, tuple("abcd"), "own", "test", (0.5,) * 3, (0.2,) * 3, regions
    )
    results = bias.evaluate(student, dataset)
    assert results.to_records()
    detector = detection.create("faster-rcnn", "resnet18", num_classes=2, min_size=64).eval()
    assert set(detector([images[0]])[0]) >= {"boxes", "labels", "scores"}


def test_commands_without_extras() -> None:
    import numpy as np
    import torch
    from PIL import Image

    from regard import models

    assert "attention-transfer/wrn-16-1" in run("recipes")
    Path("recipe.yaml").write_text(run("recipes", "show", "attention-transfer/wrn-16-1"))
    assert "wrn-16-1" in Path("recipe.yaml").read_text()
    costs = json.loads(run("complexity", "wrn-16-1", "--attention=se", "--image-size=32", "--no-latency", "--json"))
    assert costs
    torch.save(models.create("wrn-10-0.5", 3).state_dict(), "net.pt")
    options = ("--model=wrn-10-0.5", "--mean=[0.5,0.5,0.5]", "--std=[0.2,0.2,0.2]", "--image-size=32")
    run("import", "net.pt", *options, "--out=net.safetensors", "--overwrite")
    for name in ("a", "b"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(f"{name}.png")
    run("explain", "a.png", "b.png", "--model=net.safetensors", "--device=cpu", "--overwrite")
    assert "data:image" in Path("explained/explain.html").read_text() or list(Path("explained").glob("*.png"))
    assert len(json.loads(Path("explained/explain.json").read_text())["records"]) >= 2
    run("table", "--json")
    run("runs", ".", "--json")


def test_commands_of_the_cli_extra() -> None:
    if missing("cli"):
        check_refused("cli", "demo", "--quick")
        check_refused("cli", "train")
        check_refused("cli", "bias", "net.safetensors")
        check_refused("cli", "evaluate", "net.safetensors", "--data=clutter")
        check_refused("cli", "completion", "bash")
    else:
        run("demo", "--quick", "--overwrite")
        assert "<svg" in Path("demo/report.html").read_text()
        run("bias", "demo/biased", "--overwrite")
        assert "regard" in run("completion", "bash")


def test_coco_regions() -> None:
    square = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]}
    images = [{"id": 1, "file_name": "a.png", "width": 48, "height": 32}]
    categories = [{"id": 1, "name": "cat"}]
    Path("annotations.json").write_text(
        json.dumps({"images": images, "annotations": [square], "categories": categories})
    )
    from regard import InputError, data

    try:
        assert data.open_regions("coco:annotations.json").mask(0).sum() == 16
        assert not missing("coco")
    except InputError as error:
        assert missing("coco") and 'pip install "regard[coco]"' in str(error), error


def test_webdataset_shards() -> None:
    with tarfile.open("train-000.tar", "w") as shard:
        for i in range(2):
            for name, content in (("png", Path("a.png").read_bytes()), ("cls", str(i).encode())):
                member = tarfile.TarInfo(f"{i}.{name}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    from regard import InputError, data

    try:
        counts = {"train_images": 2, "test_images": 2, "classes": 2}
        train, _ = data.load("wds", ".", train="train-000.tar", test="train-000.tar", **counts)
        assert len(train) == 2
        assert "webdataset" not in missing("scale")
    except InputError as error:
        assert missing("scale") and 'pip install "regard[scale]"' in str(error), error


def test_onnx_export() -> None:
    arguments = ("export", "net.safetensors", "--out=net.onnx", "--overwrite")
    if missing("export"):
        check_refused("export", *arguments)
    else:
        run(*arguments)
        assert Path("net.onnx").stat().st_size > 0


if __name__ == "__main__":
    for extra in sys.argv[1:]:
        assert not missing(extra), f"the extra {extra} lacks {missing(extra)}"
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print(f"{name.removeprefix('test_').replace('_', ' ')}: passed", flush=True)
