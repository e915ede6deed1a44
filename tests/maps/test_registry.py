"""Map methods by name."""

import pytest

from regard import maps
from regard.errors import InputError

METHODS = {
    "activation": maps.ActivationMap,
    "gradcam": maps.GradCAM,
    "gradcam++": maps.GradCAMPlusPlus,
    "gradient": maps.GradientMap,
    "hirescam": maps.HiResCAM,
    "layercam": maps.LayerCAM,
    "xgradcam": maps.XGradCAM,
}


def test_built_in_names(model):
    assert maps.names() == sorted(METHODS)
    for name, method in METHODS.items():
        for spelling in (name, name.upper(), method.__name__):
            assert type(maps.create(spelling, model)) is method


def test_layer_and_options_reach_the_method(model):
    method = maps.create("gradient", model, "layer2", power=2, symmetric=True)
    assert (method.layer, method.power, method.symmetric) == ("layer2", 2, True)
    assert maps.create("gradcam", model, ["layer1", model.layer2], fuse="max").layers == ("layer1", "layer2")


@pytest.mark.parametrize("name", maps.names())
def test_methods_can_be_recreated_from_their_layers(model, name):
    method = maps.create(name, model)
    copy = maps.create(name, model, list(method.layers))
    assert copy.layers == method.layers and maps.create(name, model, method.layer).layer == method.layer


def test_unknown_names_and_options_fail(model):
    with pytest.raises(InputError, match="unknown method 'gradcm' .did you mean 'gradcam'"):
        maps.create("gradcm", model)
    with pytest.raises(InputError, match="unknown option of method 'gradcam' 'power'; known: fuse, reshape"):
        maps.create("gradcam", model, power=2)
