"""Runs on WebDataset shards."""

from __future__ import annotations

import os
import signal
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from regard import data, training
from regard.training.loop import Loop

pytestmark = pytest.mark.slow


def write_shards(folder: Path) -> None:
    """96 training images in six shards, and 16 test images in one."""
    folder.mkdir()
    for images in data.load("clutter", train=96, test=16):
        for shard in range(len(images) // 16):
            with tarfile.open(folder / f"{images.split}-{shard}.tar", "w") as archive:
                for number in range(16 * shard, 16 * shard + 16):
                    pixels = BytesIO()
                    Image.fromarray(images.images[number].permute(1, 2, 0).numpy()).save(pixels, "PNG")
                    for ending, content in (("png", pixels.getvalue()), ("cls", b"%d" % images.labels[number])):
                        info = tarfile.TarInfo(f"{number:04}.{ending}")
                        info.size = len(content)
                        archive.addfile(info, BytesIO(content))


class StopAt(training.Hook):
    """Sends SIGTERM after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, loop: Loop) -> None:
        if loop.steps_done == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_within_an_epoch_resumes_exactly(workers: int, tmp_path: Path) -> None:
    write_shards(tmp_path / "shards")
    options = "{train: 'train-{0..5}.tar', test: test-0.tar, classes: 10, buffer: 16}"
    plan = training.load_recipe(
        None,
        [
            *("--model.name=wrn-10-0.5", "--schedule.epochs=2", "--schedule.batch_size=8", "--schedule.milestones=[]"),
            *("--device=cpu", "--threads=1", "--data.name=wds", f"--data.folder={tmp_path / 'shards'}"),
            *("--data.size=32", f"--data.workers={workers}", f"--data.options={options}"),
        ],
    )
    whole = training.train(plan, tmp_path / "whole").run
    stopped = training.train(plan, tmp_path / "stopped", hooks=[StopAt(3)])
    assert not stopped.finished
    (checkpoint,) = stopped.run.checkpoints.iterdir()
    assert 3 <= int(checkpoint.stem.removeprefix("step-")) < 12
    resumed = training.train(plan, tmp_path / "stopped", resume=True)
    assert resumed.finished and whole.weights().read_bytes() == resumed.run.weights().read_bytes()
