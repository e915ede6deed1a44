"""Networks in folders and on a hub; a local server provides the endpoints that huggingface_hub uses."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from regard import InputError, attention, detection, models, training
from regard.cli import main

NAME = "someone/wrn-shuffle"


class Hub(BaseHTTPRequestHandler):
    """A hub with one repository; `files` has its contents."""

    files: dict[str, bytes]
    private: list[bool]
    sha = "0123456789abcdef0123456789abcdef01234567"

    def answer(self, content: bytes | dict, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": self.sha, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{NAME}/tree/"):
            rows = [
                {"type": "file", "path": name, "size": len(c), "oid": str(len(c))} for name, c in self.files.items()
            ]
            self.answer(json.dumps(rows).encode())
        elif path.startswith(f"/api/models/{NAME}"):
            files = [{"rfilename": name, "size": len(content)} for name, content in self.files.items()]
            self.answer({"id": NAME, "sha": self.sha, "siblings": files})
        elif path.startswith(f"/{NAME}/resolve/") and (name := path.rpartition("/")[2]) in self.files:
            self.answer(self.files[name], ETag=f'"{len(self.files[name])}"')
        else:
            self.answer({"error": "not found"}, 404, **{"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            request = json.loads(body)  # newer versions of the library use the second key
            self.private.append(request.get("private") or request.get("visibility") == "private")
            self.answer({"url": f"http://{self.headers['Host']}/{NAME}", "name": NAME})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(
                {
                    "success": True,
                    "commitOid": self.sha,
                    "commitUrl": f"http://{self.headers['Host']}/{NAME}/commit/{self.sha}",
                }
            )
        else:
            self.answer({"error": "not found"}, 404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[tuple[str, type[Hub]]]:
    """The address of a hub with an empty repository, and its handler class."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    handler = type("OneHub", (Hub,), {"files": {}, "private": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    gate = attention.SubAttention(2)
    options = {"attention_options": {"groups": 2}, "attention_stages": (2, 3), "uniform_norm_weights": True}
    return models.create("wrn-10-0.5", 3, attention="shuffle", gate=gate, attention_start="identity", **options).eval()


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return models.fingerprint(a) == models.fingerprint(b) and not b.training


def test_a_saved_folder_is_complete_and_loads(tmp_path, capsys) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("model: {name: wrn-10-0.5}\n```\n<script>\n")
    model, names = network(), ["cat", "dog", "é|x"]
    preprocessing = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "size": 32}
    folder = models.save_pretrained(
        model,
        tmp_path / "net",
        class_names=names,
        preprocessing=preprocessing,
        metrics={"top-1": 0.5},
        recipe=recipe,
        license="mit",
    )
    assert sorted(f.name for f in folder.iterdir()) == ["README.md", "config.json", "model.safetensors", "recipe.yaml"]
    assert same(model, models.from_pretrained(folder))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(models.from_pretrained(str(folder))(images), model(images))
    config = json.loads((folder / "config.json").read_text())
    assert config["network"]["gate"] == "sub-attention-2" and config["network"]["attention_start"] == "identity"
    assert config["classes"] == 3 and config["class_names"] == names and config["preprocessing"] == preprocessing
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n") and "license: mit" in card and "| top-1 | 0.5 |" in card
    assert "    ```" in card and "\n<script>" not in card
    loaded = training.load_pretrained(folder)
    assert loaded.classes == tuple(names) and loaded.preprocessing.size == 32 and same(model, loaded.model())
    models.save_pretrained(models.from_pretrained(folder), folder)  # overwrites the folder with the loaded model
    assert same(model, models.from_pretrained(folder))
    assert main(["export", str(folder), "--format=hub", f"--out={tmp_path / 'again'}"]) == 0
    assert same(model, models.from_pretrained(tmp_path / "again"))


def test_a_detector_is_saved_and_loaded(tmp_path) -> None:
    options = {"strides": (2, 4), "channels": 8, "frozen_stages": 0, "norm": "batch", "min_size": 32, "max_size": 64}
    attention_options = {"attention": "se", "attention_stages": (2, 3), "attention_start": "identity"}
    arguments = {**options, **attention_options, "backbone_options": {"block": "basic"}}
    detector = detection.create("retinanet", "cifar-resnet8", 3, **arguments)
    torch.nn.init.normal_(next(iter(attention.attached(detector).values())).strength)
    folder = models.save_pretrained(detector, tmp_path / "net", class_names=["a", "b", "c"], metrics={"AP": 0.25})
    for loaded in (models.from_pretrained(folder), training.load_pretrained(folder).model()):
        assert isinstance(loaded, detection.RetinaNet) and same(detector, loaded) and loaded.num_classes == 3
        assert loaded.transform.min_size == detector.transform.min_size == (32,)
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: object-detection" in card and "# retinanet cifar-resnet8 with se attention" in card
    assert main(["export", str(folder), "--format=hub", f"--out={tmp_path / 'again'}"]) == 0
    assert same(detector, models.from_pretrained(tmp_path / "again"))
    config = json.loads((folder / "config.json").read_text())
    for fields in ({"pretrained": True}, {"detector": "yolo"}, {"detector_options": {"pretrained": True}}):
        (folder / "config.json").write_text(json.dumps({**config, "network": {**config["network"], **fields}}))
        with pytest.raises(InputError):
            models.from_pretrained(folder)
    from_module = detection.create("retinanet", models.create("cifar-resnet8", 10, block="basic"), 3, **options)
    with pytest.raises(InputError, match="not known"):
        models.save_pretrained(from_module, tmp_path / "other")


def test_upload_to_a_hub_and_download(hub, tmp_path) -> None:
    address, repository = hub
    model = network()
    url = models.push_to_hub(model, NAME, private=True, endpoint=address, token="t", metrics={"top-1": 0.25})
    assert NAME in url and repository.private == [True]
    assert {"README.md", "config.json", "model.safetensors"} <= repository.files.keys()
    assert same(model, models.from_pretrained(NAME, endpoint=address, token="t"))
    with pytest.raises(InputError, match="someone/else"):
        models.from_pretrained("someone/else", endpoint=address)
    unreachable = "http://127.0.0.1:9"
    assert same(model, models.from_pretrained(NAME, endpoint=unreachable))  # from the cache
    with pytest.raises(InputError, match="could not be uploaded") as caught:
        models.push_to_hub(model, NAME, endpoint=unreachable, token="t")
    assert "\n" not in str(caught.value)


def config(classes: object = 3, **network: object) -> bytes:
    return json.dumps({"network": network, "classes": classes}).encode()


SMALL = "wrn-10-0.5"
CONFIGS = {
    "no JSON": b"{",
    "nested": b"[" * 100_000,
    "too long": b" " * 2_000_000,
    "a list": b"[1]",
    "no network": b"{}",
    "no name": config(),
    "an option of no network": config(name=SMALL, options={"checkpoint_path": "x"}),
    "weights of others": config(name="resnet18", pretrained=True),
    "weights of others among options": config(name="resnet18", options={"pretrained": True}),
    "another network": config(name="resnet18"),
    "many blocks": config(name="wrn-9994-1"),
    "many classes": config(900_000, name=SMALL),
    "infinite classes": config(float("inf"), name=SMALL),
    "an odd gate": config(name=SMALL, attention="se", gate=3),
    "odd stages": config(name=SMALL, attention="se", attention_stages="x"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_configs_are_validated(kind, tmp_path) -> None:
    folder = models.save_pretrained(network(), tmp_path / "net")
    (folder / "config.json").write_bytes(CONFIGS[kind])
    with pytest.raises(InputError) as caught:
        models.from_pretrained(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_saving_and_loading_fail_for_unsupported_models(tmp_path) -> None:
    changed = models.create("wrn-10-0.5", 3)
    changed.head = torch.nn.Linear(2, 2)
    attached = attention.attach(models.create("wrn-10-0.5", 3), "se")
    unserialisable = models.create("resnet10t", 3, act_layer=torch.nn.SiLU)
    for model, words in (
        (torch.nn.Linear(2, 2), "models.create did not make this Linear"),
        (changed, "left over"),
        (attached, "attention="),
        (unserialisable, "JSON"),
    ):
        with pytest.raises(InputError, match=words):
            models.save_pretrained(model, tmp_path / "net")
    with pytest.raises(InputError, match="3 outputs, but there are 2 class names"):
        models.save_pretrained(network(), tmp_path / "net", class_names=["cat", "dog"])
    assert not (tmp_path / "net").exists()
    folder = models.save_pretrained(models.create("wrn-10-0.5", np.int64(3)), tmp_path / "net")
    state = load_file(folder / "model.safetensors")
    save_file({name: value[:1] for name, value in state.items() if value.ndim}, folder / "model.safetensors")
    with pytest.raises(InputError, match="does not fit"):
        models.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model.safetensors"):
        models.from_pretrained(folder)
