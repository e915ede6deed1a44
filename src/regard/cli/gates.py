"""`regard gates`: how far the gates of attention modules tell classes apart, by depth."""

from __future__ import annotations

from regard import report, training
from regard.cli.evaluations import evaluations
from regard.cli.studies import add_study_options, choose, folder_for, images_of, progress, write_json
from regard.console import Console
from regard.errors import InputError
from regard.formatting import printable
from regard.studies import attention_layers, gate_activations
from regard.terminal import command_line, listed


def main(arguments: list[str]) -> int:
    parser = training.RecipeParser(
        prog="regard gates",
        usage="regard gates MODEL… [--data SET] [OPTIONS]",
        description="What attention modules multiply each channel with, in the mean over the images of a class, and "
        "how far that tells classes apart, depth by depth: the study of SENet and SA-Net. Several networks, such as "
        "one with and one without channel shuffle, stand side by side. A MODEL is a run folder, an imported "
        ".safetensors file, a name of timm, torchvision/NAME or NAME=CHECKPOINT. The folder of the study (--out) has "
        "gates.html and gates.json.",
    )
    parser.add_argument(
        "--layers", type=str, default="", help="modules, or what they are in (layer4), with commas; all if empty"
    )
    parser.add_argument(
        "--of", choices=["gate", "output"], default="gate", help="the gate, or the mean of what the module gives"
    )
    add_study_options(parser, per_class=None)
    found = evaluations(parser, arguments)
    options = found[0].options
    chosen = choose(found)
    folder = folder_for("gates", options, found[0])
    layers = listed(options.layers) or None
    for evaluation in found:
        try:
            attention_layers(evaluation.model, layers, of=options.of)  # before the work
        except InputError as error:
            raise InputError(f"{evaluation.name}: {error}") from error
        evaluation.release()
    console = Console()
    studies = []
    for evaluation in found:
        with progress(console, evaluation.name, len(chosen.places)) as told:
            gates = gate_activations(
                evaluation.model, evaluation.batches(chosen.places), layers=layers, of=options.of, progress=told
            )
        evaluation.release()
        studies.append(report.GateStudy(evaluation.name, gates))
    classes, shown = found[0].classes, chosen.shown
    command = command_line(["regard", "gates", *arguments])
    write_json(
        folder / "gates.json",
        {"command": command, "data": images_of(found[0]), **report.gates_record(studies, classes, shown)},
    )
    page = report.write_gates_html(
        studies,
        folder / "gates.html",
        title=f"What gates make of classes: {images_of(found[0])}",
        classes=classes,
        shown=shown,
        data=images_of(found[0]),
        command=command,
    )
    console.print(report.gates_table(studies))
    console.print(printable(f"the study is {page.resolve()}"), soft_wrap=True)
    return 0
