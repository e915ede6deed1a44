"""`regard groups`: how much each group of a layer's channels alone speaks for a class."""

from __future__ import annotations

from collections.abc import Sequence

from regard import report, training
from regard.cli.evaluations import Evaluation, evaluations
from regard.cli.studies import (
    Chosen,
    add_study_options,
    choose,
    folder_for,
    images_of,
    progress,
    write_json,
)
from regard.console import Console
from regard.errors import InputError
from regard.formatting import printable
from regard.maps.channel_groups import group_means
from regard.report.wording import number
from regard.studies.groups import Target, group_scores
from regard.terminal import command_line, listed


def main(arguments: list[str]) -> int:
    parser = training.RecipeParser(
        prog="regard groups",
        usage="regard groups MODEL… [--data SET] --layer NAME --groups G [OPTIONS]",
        description="How much each group of a layer's channels, taken alone, speaks for a class: the image is masked "
        "with the group's mean activation, and the score is the probability of the class then (SA-Net's group "
        "activation), in the mean over the images of the class. An image takes a forward a group, so 20 of each "
        "class are taken unless --per_class says otherwise. A MODEL is a run folder, an imported .safetensors file, a "
        "name of timm, or NAME=CHECKPOINT. The folder of the study (--out) has groups.html and groups.json.",
    )
    parser.add_argument("--layer", type=str, default="", help="the layer; where networks differ, one each, with commas")
    parser.add_argument("--groups", type=int, default=64, help="into how many its channels are cut")
    parser.add_argument(
        "--target",
        choices=["label", "predicted"],
        default=None,
        help="whose probability: of the label, or of the class predicted for the whole image; the label if it can be",
    )
    add_study_options(parser, per_class=20)
    found = evaluations(parser, arguments)
    options = found[0].options
    layers = _layers(found, options.layer)
    chosen = choose(found, most=report.SHOWN)
    folder = folder_for("groups", options, found[0])
    target = _target(found, chosen, options.target)
    for evaluation, layer in zip(found, layers, strict=True):  # before the work
        first = next(evaluation.batches(chosen.places))
        group_means(evaluation.model, layer, first.images[:1], options.groups)
        evaluation.release()
    console = Console()
    studies = []
    for evaluation, layer in zip(found, layers, strict=True):
        with progress(console, evaluation.name, len(chosen.places) * options.groups) as told:
            scores = group_scores(
                evaluation.model,
                layer,
                evaluation.batches(chosen.places),
                options.groups,
                target=target,
                outputs=evaluation.label_outputs,
                batch_size=options.batch_size,
                progress=told,
            )
        evaluation.release()
        studies.append(report.GroupStudy(evaluation.name, scores))
    command = command_line(["regard", "groups", *arguments])
    write_json(
        folder / "groups.json",
        {"command": command, "data": images_of(found[0]), **report.groups_record(studies, found[0].classes)},
    )
    page = report.write_groups_html(
        studies,
        folder / "groups.html",
        title=f"What groups of channels say of classes: {images_of(found[0])}",
        classes=found[0].classes,
        shown=chosen.shown,
        data=images_of(found[0]),
        command=command,
    )
    console.print(report.groups_table(studies, found[0].classes))
    console.print(printable(f"the study is {page.resolve()}"), soft_wrap=True)
    return 0


def _layers(found: Sequence[Evaluation], text: str) -> list[str]:
    """The layer of each network."""
    names = listed(text)
    if not names:
        raise InputError("name the layer whose channels are cut into groups (--layer)")
    if len(names) not in (1, len(found)):
        networks = number(len(found), "network")
        raise InputError(f"--layer names {len(names)} layers for {networks}; give one, or one each")
    return names * len(found) if len(names) == 1 else names


def _target(found: Sequence[Evaluation], chosen: Chosen, asked: Target | None) -> Target:
    """Whose probability is taken, the same for all networks."""
    for evaluation in found:
        lacking = [label for label in chosen.labels if evaluation.label_outputs[label] < 0]
        if lacking and asked is None:
            return "predicted"
        if lacking and asked == "label":
            lacked = evaluation.classes[lacking[0]]
            raise InputError(f"no output of {evaluation.name} stands for class {lacked!r}; leave --target out")
    return asked or "label"
