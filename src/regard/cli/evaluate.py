"""`regard evaluate`: accuracy of trained networks."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import torch

from regard import training
from regard.cli.command import Command
from regard.cli.evaluation import ClassifierEvaluation
from regard.cli.inputs import add_networks, evaluations, join_processes, open_networks
from regard.cli.options import make_parser
from regard.columns import Column
from regard.errors import InputError, first_few
from regard.parser import Parser
from regard.report import records_table

_COLUMNS = (
    *(Column("model", "model"), Column("weights", "weights"), Column("data", "data")),
    *(Column("images", "images", "count"), Column("loss", "loss", "number")),
    *(Column("accuracy", "accuracy", "percent"), Column("top5", "top-5 accuracy", "percent")),
)


def parser() -> Parser:
    parser = make_parser(
        "evaluate",
        "Measures loss and accuracy of networks: of runs on their test images, and of any network on other images with "
        "the same classes. Notes list differences from the preprocessing in training. Under torchrun or srun, several "
        "processes share the work.",
    )
    add_networks(parser)
    return parser


def main(command: Command) -> None:
    with join_processes(command) as processes:
        records: list[dict[str, Any]] = []
        try:
            networks = open_networks(command, command.options.models)
            hint = "`regard detect evaluate` measures detectors"
            for evaluation in evaluations(command, networks, labels=True, streams=True, detector_hint=hint):
                records.append(_evaluate(evaluation, processes, command))
        finally:
            if records:
                command.show(records, records_table(records, _COLUMNS))


def _evaluate(evaluation: ClassifierEvaluation, processes: training.Processes, command: Command) -> dict[str, Any]:
    name, images, network = evaluation.name, evaluation.images, evaluation.pretrained
    if network.recipe is not None and network.recipe.precision != "float32":
        command.note(f"note: {name} was trained with precision {network.recipe.precision}; it is evaluated in float32")
    model = processes.first(lambda: evaluation.model)  # the first process may download the weights
    score = training.evaluate(
        model,
        evaluation.loader(rank=processes.rank, world_size=processes.count),
        outputs=torch.tensor(evaluation.label_outputs, device=evaluation.device),
        summed=processes.summed,
    )
    evaluation.release()
    skipped = [*getattr(images, "skipped", ()), *sorted(chain(*processes.of_all(score.skipped)))]
    if skipped:
        command.note(f"{len(skipped)} unreadable images skipped: {first_few(skipped)}")
    if not score.images:
        raise InputError(f"no image of {images.name} has a class of {name}; name a data set with its classes (--data)")
    if not math.isfinite(score.loss):
        command.note(f"note: {name} has outputs that are NaN or infinite; its accuracy may mean nothing")
    data = f"{images.name} {images.split}".strip()
    record: dict[str, Any] = {"model": name, "weights": network.weights, "data": data}
    (numbers,) = score.to_records()
    has_few_classes = len(network.output_names) <= training.MANY_CLASSES
    numbers = {name: value for name, value in numbers.items() if not (has_few_classes and name.startswith("top5"))}
    return record | {"skipped": len(skipped)} | numbers
