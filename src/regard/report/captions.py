"""Fixed sentences below tables and figures, for pages and terminals; `[key]` links to the glossary on a page."""

RATES = (
    "Rates in %, other measures from 0 to 1; below each its [interval|95% interval]. Accuracy counts all images with a "
    "label, everything else those with a [region] and a CAM that is not a [constant_map|constant map]."
)
DIFFERENCES = (
    "Each network minus the [reference], rates in percentage points; below each its [interval|95% interval]. "
    "[p|p values] are two-sided, and [holm|adjusted] together for all comparisons shown."
)
SEEDS = (
    "Of a network with several [seeds]: the mean over the seeds and its [interval|95% interval]. Of one with a single "
    "seed: the interval over the test images."
)
CAMS = (
    "Each [cam|CAM] is laid over its image; below it are its class and, in parentheses, the probability of that class. "
    "The lines are the edges of the [focus] and, where it is known, of the [region]; ✗ marks a wrong prediction."
)
GATES_LEAD = (
    "What attention modules multiply each channel with ([gate|gates]), or give (output), averaged over pixels, by "
    "class and depth."
)
GATES = (
    "[eta_squared|Eta squared] is the mean over the channels of a layer that vary; compare it with what is expected by "
    "chance. Median, 5% and 95%: of the channels' means over all images."
)
GATES_DETAILS = (
    "Above, the mean of every channel, in the order of the layer's output; of layers with more than 64 channels, "
    "neighbours are averaged. Beside it, the distribution over the channels on the same scale. Below, each class minus "
    "all classes, on one scale for the whole page."
)
GROUPS_LEAD = "How much each group of a layer's channels, taken alone, speaks for a class: its [group_score]."
GROUPS = (
    "Mean probabilities over the images of a class, in %: with the whole image, and masked by each group of channels "
    "([group_score]); below each its [interval|95% interval]. A group whose mean activation is constant masks nothing, "
    "and has no score."
)
COSTS = (
    "The area of a circle is in proportion to the network's parameters. The point is the mean over the [seeds], the "
    "line goes from the least to the greatest."
)
CURVES = "Thin lines are runs; the thick line is their mean, the band goes from the least to the greatest."
GROUPS_DETAILS = "Bars: the [group_score] of each group, with its [interval|95% interval]. Dashed: the whole image."
BIAS = (
    "For each image, the [focus] of a [cam|CAM] is compared with the [region], the pixels of the object. "
    "[position_bias|Position bias]: they do not intersect. [range_bias|Range bias]: they intersect, and the focus is "
    "not inside the region. [inside|Inside]: it is."
)
DETECTIONS = (
    "Each row is a detection, in place of an image. Its [region] is the mask of the object that it detects (of the "
    "same class, boxes with IoU 0.5), or its own box if it detects none; [accuracy] is the share that detect one. "
    "Detectors are compared on the objects that they all detect."
)
DETECTION_SIZES = (
    "[region|Regions] by COCO's sizes: small below 32 x 32 pixels, medium below 96 x 96, large the rest. The region of "
    "a wrong detection is its box, and a box is larger than a mask."
)
UNSCORED = "no accuracy: the labels of the images are not outputs of the network, so its CAMs are of predicted classes"
SIZES = (
    "[region|Regions] by their share of the image's pixels: small below 1/16, medium below 1/4, large the rest. "
    "Accuracy counts all images with a label, everything else those with a region and a CAM that is not a "
    "[constant_map|constant map]."
)
INTERVENTIONS = (
    "Accuracy on the original images, and on the same images once the object or the background is removed or "
    "exchanged; rates in %, the [drop] in percentage points, each with its [interval|95% interval]. The number of "
    "images differs: not every image has an object, a background, and another image of its class. [p|p values] are "
    "[holm|adjusted] together with all comparisons shown. Of the [background_gap], the first rate is that of "
    "[mixed_same], the second that of [mixed_other]."
)
LOST = (
    "Does looking away matter? Of the images that are predicted right, the share that is [lost|lost] in each way, of "
    "those with [position_bias|position bias] and of those without; the difference in percentage points, each with its "
    "[interval|95% interval]. A network whose position bias matters loses more of the first when the background is "
    "exchanged, and fewer of them when the object is removed."
)
DROPS = "The [drop] in percentage points, with its [interval|95% interval]; not tested."
CLASSES = (
    "The classes with at least 10 images whose [interval] of [position_bias|position bias] begins highest. They are "
    "extremes of many, some of them by chance."
)
THRESHOLDS = "Share of the images with each bias, by the [threshold] of the [focus]."
DISTRIBUTIONS = (
    "Each measure over the images: the higher, the more images; at the right its mean. Dotted: the mean of a "
    "[constant_map|constant map], or of random values."
)
NOTHING_DETECTED = "Nothing is detected with a score of {score} or more; lower it (--score), or train longer."
VERDICTS = (
    "[significant|Significant], [compatible|compatible with published]: by the [holm|adjusted p]; preliminary: with a "
    "[shortened|shortened schedule] or other data."
)
SEED_FIGURES = (
    "Dots and bars: means over [seeds] and their [interval|95% intervals]. Vertical lines: seeds. Diamonds: published."
)
