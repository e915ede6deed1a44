"""`regard evaluate`: accuracy of trained networks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch

from regard import stats, training
from regard.cli.evaluations import Evaluation, add_evaluation_options, evaluations
from regard.cli.processes import joined
from regard.errors import InputError
from regard.terminal import say


def main(arguments: list[str]) -> int:
    parser = training.RecipeParser(
        prog="regard evaluate",
        usage="regard evaluate MODEL… [--data SET] [OPTIONS]",
        description="Accuracy of networks: of runs and of checkpoints in their folders, on the test images of their "
        "data or of others with the same classes; of imported .safetensors files, of timm's names with pretrained "
        "weights, and of NAME=CHECKPOINT. Notes say where the images are other than those of the training; under "
        "torchrun or srun several processes share the work.",
    )
    add_evaluation_options(parser)
    with joined(arguments) as processes:
        told: Callable[[str], None] = say if processes.main else lambda _: None
        for evaluation in evaluations(parser, arguments, labels=True, streams=True, say=told):
            _score(evaluation, processes, told)
    return 0


def _score(evaluation: Evaluation, processes: training.Processes, say: Callable[[str], None]) -> None:
    _tell_precision(evaluation, say)
    loader = evaluation.loader(rank=processes.rank, world_size=processes.count)
    outputs = torch.tensor(evaluation.label_outputs, device=evaluation.device)
    model = processes.first(lambda: evaluation.model)  # first, for its weights may be a download
    score = training.evaluate(model, loader, outputs=outputs, summed=processes.summed)
    _tell(evaluation, score, sorted(chain(*processes.of_all(score.skipped))), say)
    evaluation.release()


def _tell(evaluation: Evaluation, score: training.Score, skipped: list[str], say: Callable[[str], None]) -> None:
    skipped = [*getattr(evaluation.images, "skipped", ()), *skipped]  # when they were read into memory, and now
    unread = f"{len(skipped)} unreadable images skipped: {', '.join(skipped[:3])}{', …' if len(skipped) > 3 else ''}"
    if not score.images:
        reason = f" ({unread})" if skipped else ""
        raise InputError(f"not one image of {evaluation.images.name} has a label that {evaluation.name} knows{reason}")
    data = f"{evaluation.images.name} {evaluation.images.split}".strip()
    shares = [f"accuracy {_share(score.correct, score.images)}"]
    if len(evaluation.pretrained.output_names) > training.MANY_CLASSES:
        shares.append(f"top-5 {_share(score.top5, score.images)}")
    say(
        f"{evaluation.name} ({evaluation.pretrained.weights}) on {data}: {', '.join(shares)}, loss {score.loss:.4f}, "
        f"{score.images} images"
    )
    if skipped:
        say(unread)


def _tell_precision(evaluation: Evaluation, say: Callable[[str], None]) -> None:
    recipe = evaluation.pretrained.recipe
    if recipe is not None and recipe.precision != "float32":
        precision = recipe.precision
        say(f"note: {evaluation.name} was trained with precision {precision}; it is scored in float32, as in its tests")


def _share(count: int, images: int) -> str:
    accuracy = stats.proportion(count, images)
    return f"{accuracy.value:.2%} [{accuracy.low:.2%}, {accuracy.high:.2%}]"
