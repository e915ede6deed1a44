"""`regard evaluate`: accuracy of trained networks."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch

from regard import training
from regard.cli.command import Command
from regard.cli.evaluation import ClassifierEvaluation
from regard.cli.inputs import add_networks, evaluations, joined, open_networks
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
        "Measures loss and accuracy of networks: of runs on the test images of their data, and of any network on other "
        "images with the same classes. Notes say where images come otherwise than in training. Under torchrun or srun "
        "several processes share the work.",
    )
    add_networks(parser)
    return parser


def main(command: Command) -> None:
    with joined(command) as processes:
        records: list[dict[str, Any]] = []
        try:
            networks = open_networks(command, command.options.models)
            instead = "`regard detect evaluate` measures detectors"
            for evaluation in evaluations(command, networks, labels=True, streams=True, detectors=instead):
                records.append(_evaluated(evaluation, processes, command))
        finally:
            if records:
                command.show(records, records_table(records, _COLUMNS))


def _evaluated(evaluation: ClassifierEvaluation, processes: training.Processes, command: Command) -> dict[str, Any]:
    name, images, known = evaluation.name, evaluation.images, evaluation.pretrained
    if known.recipe is not None and known.recipe.precision != "float32":
        command.note(f"note: {name} was trained with precision {known.recipe.precision}; it is evaluated in float32")
    model = processes.first(lambda: evaluation.model)  # first, for its weights may be a download
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
        raise InputError(f"not one image of {images.name} has a label that {name} knows")
    record: dict[str, Any] = {"model": name, "weights": known.weights, "data": f"{images.name} {images.split}".strip()}
    (numbers,) = score.to_records()
    few = len(known.output_names) <= training.MANY_CLASSES
    numbers = {name: value for name, value in numbers.items() if not (few and name.startswith("top5"))}
    return record | {"skipped": len(skipped)} | numbers
