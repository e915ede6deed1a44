"""`regard evaluate`: accuracy of trained networks."""

from __future__ import annotations

from regard import bias, data, training
from regard.commands.runs import trained_on_data


def main(arguments: list[str]) -> int:
    parser = training.RecipeParser(
        prog="regard evaluate",
        usage="regard evaluate SOURCE… [OPTIONS]",
        description="Accuracy of runs, on the test images of their data or of others with the same classes, and of "
        "imported .safetensors files.",
    )
    for network, options, images in trained_on_data(parser, arguments):
        device = training.pick_device(options.device)
        model = network.model(options.weights).to(device)
        score = training.evaluate(model, data.Batches(images, options.batch_size, device=device))
        low, high = bias.wilson(round(score.accuracy * score.images), score.images)
        print(
            f"{network.source} ({options.weights}) on {images.name} {images.split}: accuracy {score.accuracy:.2%} "
            f"[{low:.2%}, {high:.2%}], loss {score.loss:.4f}, {score.images} images"
        )
    return 0
