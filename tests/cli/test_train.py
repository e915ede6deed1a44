"""`regard train` with a run folder that is in use or exists already."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from accelerate.tracking import TensorBoardTracker
from PIL import Image

from regard import cli, training
from regard.store import Store
from regard.training.loop import Loop

pytestmark = pytest.mark.slow

OPTIONS = ["--model.name=wrn-10-1", "--data.options.train=20", "--data.options.test=20", "--run=runs/mine"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def holders(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The holder of the run during each training; training itself is faked."""
    recorded: list[str | None] = []

    def fake_train(*args: object, **options: object) -> SimpleNamespace:
        recorded.append(Store("runs").holder("mine"))
        return SimpleNamespace(finished=True, row={"test_accuracy": 0.5})

    monkeypatch.setattr(training, "train", fake_train)
    return recorded


def test_a_run_is_locked_while_it_is_trained(holders, here: Path) -> None:
    assert cli.main(["train", *OPTIONS]) == 0
    assert holders[0] is not None and holders[0].startswith("pid ")
    assert Store("runs").locked() == {}
    assert not (here / "runs").exists()  # because training is faked


def test_a_locked_run_is_not_trained(holders, here: Path) -> None:
    with Store("runs").lock("mine"):
        status, message = regard("train", *OPTIONS)
        assert status == 76 and re.search(r"pid \d+ on .* is using .*runs/mine; wait for it", message)
        assert message.count("\n") == 1 and not holders
    assert cli.main(["train", *OPTIONS]) == 0 and len(holders) == 1


def test_training_proceeds_where_locking_is_impossible(holders, here: Path) -> None:
    (here / "runs").mkdir()
    (here / "runs" / ".locks").write_text("")
    assert cli.main(["train", *OPTIONS]) == 0 and holders == [None]


TINY = [*OPTIONS, "--schedule.epochs=1", "--schedule.batch_size=10", "--device=cpu", "--threads=1"]


def regard(*arguments: str) -> tuple[int, str]:
    """Returns the status of a command and its error output, which is one line or empty."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = cli.main([*arguments, *(["--quiet"] if arguments[0] == "train" else [])])
    assert len(errors.getvalue().splitlines()) == (status in (2, 76)), errors.getvalue()
    return status, errors.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("finished"))
        assert regard("train", *TINY) == (0, "")
        return Path("runs/mine").resolve()


@pytest.fixture
def run(finished: Path, here: Path) -> Path:
    """The finished run, with a bias report and files of the user in its folder."""
    folder = shutil.copytree(finished, here / "runs" / "mine")
    for name in (
        "bias.json",
        "bias.parquet",
        "notes.txt",
        "checkpoints/step-100.pt",
        "data/a.jpg",
        "data/recipe.yaml",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize("linked", [False, True], ids=["folder", "link"])
def test_overwriting_removes_the_run_and_nothing_else(run: Path, here: Path, linked: bool) -> None:
    if linked:
        (here / "elsewhere").symlink_to(run)
    before = contents(run)
    options = [*TINY, "--seed=1", "--overwrite", *(["--run=elsewhere"] if linked else [])]
    assert regard("train", *options) == (0, "")
    after = contents(run)
    user_files = {"notes.txt", "checkpoints/step-100.pt", "data/a.jpg", "data/recipe.yaml"}
    assert before.keys() - after.keys() == {"bias.json", "bias.parquet"} and not after.keys() - before.keys()
    assert {name for name in after if after[name] == before[name]} - {"environment.json"} == user_files
    assert training.Run.open(run).recipe.seed == 1 and len(training.Run.open(run).metrics()) == 1


@pytest.mark.parametrize("place", ["run", "above", "home", "recipe", "file"])
def test_overwrite_refuses_other_folders_and_the_working_folder(run: Path, here: Path, monkeypatch, place: str) -> None:
    (here / "recipe.yaml").write_text("a cake")
    (here / "environment.json").write_text("{}")
    (run / "inside").mkdir()
    folder = {"run": ".", "above": "..", "recipe": str(here), "file": "notes.txt", "home": str(run)}[place]
    monkeypatch.setenv("HOME", str(run if place == "home" else here))
    monkeypatch.chdir(here if place == "home" else run / "inside" if place == "above" else run)
    before = contents(here)
    status, message = regard("train", *TINY, "--overwrite", f"--run={folder}")
    assert status == 2 and str(folder) in message and "not overwritten" in message
    assert contents(here) == before


def test_a_circular_link_is_an_error_and_hides_no_run(run: Path, here: Path) -> None:
    (run.parent / "loop").symlink_to("loop")
    assert regard("runs") == (0, "")
    for options in (["--run=runs/loop"], ["--run=runs/loop", "--overwrite"], ["--run=runs/loop/in"]):
        status, message = regard("train", *TINY, *options)
        assert status == 2 and options[0].removeprefix("--run=") in message
    status, message = regard("train", *TINY, "--run=new", "--transfer.teacher=runs/loop", "--transfer.beta=1")
    assert status == 2 and "runs/loop" in message


def no_memory(*args: object, **options: object) -> NoReturn:
    raise MemoryError


def no_account(*args: object, **options: object) -> NoReturn:
    raise OSError("not logged in")


@pytest.mark.parametrize(
    ("owner", "name", "fault", "options"),
    [
        (Loop, "take_step", no_memory, []),
        (TensorBoardTracker, "store_init_configuration", no_account, ['--trackers=["tensorboard"]']),
    ],
    ids=["first step", "tracker"],
)
def test_a_run_that_fails_before_its_first_step_changes_nothing(
    run: Path, here: Path, monkeypatch, owner: type, name: str, fault: Callable[..., NoReturn], options: list[str]
) -> None:
    before = contents(run)
    with monkeypatch.context() as failing:
        failing.setattr(owner, name, fault)
        assert regard("train", *TINY, *options, "--overwrite")[0] == 2
        assert regard("train", *TINY, *options, "--run=new/run")[0] == 2
    assert {name: text for name, text in contents(run).items() if not name.startswith("tensorboard")} == before
    assert not (here / "new").exists()
    assert regard("train", *TINY, *options, "--run=new/run") == (0, "")


def test_a_linked_run_is_locked_in_its_real_store(holders, run: Path, here: Path) -> None:
    (here / "elsewhere").mkdir()
    (here / "elsewhere" / "link").symlink_to(run)
    assert cli.main(["train", *OPTIONS, "--run=elsewhere/link", "--resume"]) == 0
    assert holders[0] is not None and holders[0].startswith("pid ")


@pytest.mark.parametrize("more", [[], ["--schedule.epochs=300", "--device=cpu"]])
def test_resuming_a_missing_run_fails(holders, here: Path, more: list[str]) -> None:
    """A mistyped name does not start a run with the default recipe."""
    status, message = regard("train", "--run=runs/mien", "--resume", *more)
    assert (status, holders) == (2, []) and "no run runs/mien to resume" in message and message.count("\n") == 1
    assert cli.main(["train", *OPTIONS, "--resume"]) == 0 and len(holders) == 1  # with a recipe, a run starts


@pytest.mark.parametrize(("batch_size", "warned"), [(4, True), (3, False)])
def test_a_dropped_last_batch_is_noted(here: Path, capsys, batch_size: int, warned: bool) -> None:
    for class_folder in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (here / "set" / class_folder).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(here / "set" / class_folder / f"{number}.png")
    files = ["--data.name=files", "--data.folder=set", "--data.size=16", "--data.workers=0"]
    options = ["--model.name=wrn-10-0.5", "--schedule.epochs=1", f"--schedule.batch_size={batch_size}", "--run=run"]
    assert cli.main(["train", *files, *options]) == 0
    assert ("with 2 of 6 images, is left out" in capsys.readouterr().err) == warned


def test_a_failing_tracker_does_not_end_the_run(here: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(TensorBoardTracker, "log", no_account)
    monkeypatch.setattr(TensorBoardTracker, "finish", no_memory)
    assert cli.main(["train", *TINY, '--trackers=["tensorboard"]']) == 0
    assert len(training.Run.open("runs/mine").metrics()) == 1
    assert sum("tensorboard failed" in line for line in capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize("torch_variables", [{"RANK": "0", "WORLD_SIZE": "1"}, {"RANK": "", "WORLD_SIZE": "4"}])
def test_launcher_variables_do_not_distribute_a_single_process(torch_variables, here: Path, monkeypatch) -> None:
    """The variables are set in a shell of `salloc`, a Slurm script, an MPI task or a notebook started by torchrun."""
    names = {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "PMI_SIZE": "2", "OMPI_COMM_WORLD_SIZE": "2"}
    for name, value in {**names, "LOCAL_RANK": "0", **torch_variables}.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert regard("train", *TINY) == (0, "")
    assert training.Run.open("runs/mine").environment["processes"] == 1
    assert {name: os.environ.get(name) for name in before} == before


@pytest.mark.parametrize("kind", ["folder", "files"])
@pytest.mark.parametrize("classes", [["cat"], ["cat", "dog"]])
def test_data_with_a_single_class_are_warned_about(here: Path, capsys, kind: str, classes: list[str]) -> None:
    for name in classes:
        for split in ("train", "test"):
            (here / split / name).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (32, 32), (60 * i, 0, 0)).save(here / split / name / f"{i}.png")
    data = [f"--data.name={kind}", "--data.folder=.", "--data.size=32", "--data.workers=0", "--run=run"]
    options = ["--model.name=wrn-10-0.5", "--schedule.epochs=1", "--schedule.batch_size=4", "--device=cpu"]
    assert cli.main(["train", *options, *data]) == 0
    assert ("one class, 'cat'" in capsys.readouterr().err) == (classes == ["cat"])


@pytest.fixture
def read_only(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the working folder behave like one on a read-only file system."""

    def refuse(owner: Any, name: str, writes: Callable[..., bool] = lambda *_: True) -> None:
        function = getattr(owner, name)

        def refused(path: Any, *more: Any, **options: Any) -> Any:
            if not isinstance(path, int) and Path(os.path.abspath(path)).is_relative_to(here) and writes(*more):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return function(path, *more, **options)

        monkeypatch.setattr(owner, name, refused)

    for name in ("mkdir", "replace", "rename", "unlink"):
        refuse(os, name)
    refuse(os, "open", lambda flags, *_: bool(flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)))
    refuse(io, "open", lambda mode="r", *_: not set(mode) <= {"r", "b", "t"})
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))


@pytest.mark.parametrize(
    "command",
    [
        f"train {' '.join(TINY)} --run=new",
        f"train {' '.join(TINY)} --overwrite",
        f"train {' '.join(TINY)} --resume --schedule.epochs=2",
        "import net.pt --model=wrn-10-1 --out=net.safetensors",
        "bias runs/mine --device=cpu --overwrite",
        "report runs/mine --examples=0",
        "explain image.png --model=runs/mine --device=cpu",
        "table attention-transfer-cifar10 --out=table.csv",
    ],
    ids=lambda command: command.split()[0],
)
def test_a_read_only_file_system_is_a_one_line_error(run: Path, here: Path, monkeypatch, request, command: str) -> None:
    for name in ("bias.json", "bias.parquet"):
        (run / name).unlink()
    Image.new("RGB", (32, 32)).save("image.png")
    torch.save(training.Run.open(run).model().state_dict(), "net.pt")
    before = contents(here)
    request.getfixturevalue("read_only")
    status, message = regard(*command.split())
    assert status == 2 and any(word in message for word in ("Read-only file system", "cannot be written")), message
    assert contents(here) == before
    if command.startswith("train"):
        assert regard("train", *TINY, "--resume") == (0, "")  # a finished run is only read
