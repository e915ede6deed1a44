"""Optional packages. Each comes with an extra, and a missing one is an error of one line."""

from __future__ import annotations

from importlib.util import find_spec

from regard.errors import InputError

EXTRAS = {
    "cli": {
        "accelerate": "accelerate",
        "matplotlib": "matplotlib",
        "pyarrow": "pyarrow",
        "shtab": "shtab",
        "sklearn": "scikit-learn",
    },
    "coco": {"faster_coco_eval": "faster-coco-eval"},
    "scale": {
        "braceexpand": "braceexpand",
        "datasets": "datasets",
        "tensorboard": "tensorboard",
        "webdataset": "webdataset",
    },
    "ray": {"ray": "ray"},
    "export": {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"},
}
"""For each extra, its packages by the name of the module to import."""


def require(purpose: str, *modules: str) -> None:
    """Raises InputError if modules of an extra are not installed. Does not import them.

    `purpose` needs the modules; it is the subject of the message's sentence, such as "a figure".
    """
    missing = [name for name in modules if find_spec(name) is None]
    for extra, packages in EXTRAS.items():
        if missing and missing[0] in packages:
            names = ", ".join(packages[name] for name in missing)
            raise InputError(f'{purpose} needs {names}: pip install "regard[{extra}]"')
