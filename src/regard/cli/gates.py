"""`regard gates`: measures how well the gates of attention modules separate classes, by depth."""

from __future__ import annotations

from regard.cli.command import Command
from regard.cli.inputs import evaluations, open_networks
from regard.cli.options import make_parser
from regard.cli.studies import add_study_options, folder_for, sample, write_study
from regard.errors import InputError
from regard.parser import Parser, strings
from regard.studies import attention_layers, gate_activations


def parser() -> Parser:
    parser = make_parser(
        "gates",
        "Measures the mean gate of each channel over the images of a class, and how well the gates separate classes at "
        "each depth, as SENet and SA-Net did. Several networks, such as one with and one without channel shuffle, are "
        "shown side by side. Writes gates.html and gates.json, with every channel, to a folder (--out).",
    )
    parser.add_argument(
        "--layer",
        type=strings,
        default=[],
        help="modules to study, or layers that contain them, such as layer4; all if not given",
    )
    parser.add_argument(
        "--quantity",
        choices=["gate", "output"],
        default="gate",
        help="quantity to average: the gate, or the output features of the module",
    )
    add_study_options(parser, classes="all", per_class=None)
    return parser


def main(command: Command) -> None:
    options = command.options
    networks = evaluations(command, open_networks(command, options.models))
    images = sample(networks)
    folder = folder_for("gates", options.out, images)
    layers = options.layer or None
    for network in networks:
        try:
            attention_layers(network.model, layers, quantity=options.quantity)  # fails before the long computation
        except InputError as error:
            raise InputError(f"{network.name}: {error}") from error
        network.release()
    results = {}
    for network in networks:
        with command.progress(network.name, total=len(images.indices)) as update:
            results[network.name] = gate_activations(
                network.model,
                network.batches(images.indices),
                layers=layers,
                quantity=options.quantity,
                class_names=network.images.classes,
                progress=update,
            )
        network.release()
    channels = [
        {"network": name, **record}
        for name, result in results.items()
        for layer in result.layers.values()
        for record in layer.channel_records(images.page_labels)
    ]
    write_study(command, "gates", results, folder, images, quantity=options.quantity, channels=channels)
