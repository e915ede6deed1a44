"""What an epoch leaves in the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from safetensors import SafetensorError
from torch import nn

from regard.errors import InputError, first_line
from regard.terminal import escaped
from regard.training.run import Run


def mend_record(run: Run, network: nn.Module, rows: list[dict[str, Any]], unreadable: Sequence[str]) -> None:
    """Writes what the folder of a run lacks of its last finished epoch, which its checkpoint is of.

    A copy of a run may have been cut off between the two, and files may have been lost.

    Raises:
        InputError: as `record_epoch`.
    """
    with suppress(InputError):  # metrics that cannot be read are written again
        if len(run.metrics()) >= len(rows) and (run.folder / "last.safetensors").is_file():
            return
    is_best = rows[-1]["test_accuracy"] > max((row["test_accuracy"] for row in rows[:-1]), default=-1.0)
    record_epoch(run, network, rows, unreadable, best=is_best)


def record_epoch(
    run: Run, network: nn.Module, rows: list[dict[str, Any]], unreadable: Sequence[str], *, best: bool
) -> None:
    """Writes the metrics, the weights (also as the best ones, if they are) and the list of unreadable files.

    Raises:
        InputError: the disk is full, or the folder cannot be written; what was there before is there still.
    """
    epoch, accuracy = rows[-1]["epoch"], rows[-1]["test_accuracy"]
    try:
        run.save_weights(network, "last", epoch, accuracy)
        if best:
            run.save_weights(network, "best", epoch, accuracy)
        run.write_metrics(rows)
        if unreadable:
            (run.folder / "unreadable.txt").write_text(
                "".join(f"{escaped(name)}\n" for name in unreadable), encoding="utf-8"
            )
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"epoch {epoch} could not be written to {run.folder} ({first_line(error)}); make room, then resume the run "
            "(--resume)"
        ) from error
