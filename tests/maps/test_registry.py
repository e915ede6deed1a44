"""CAM methods by name."""

import pytest

from regard import maps
from regard.errors import InputError

OWN = {
    "activation": maps.ActivationMap,
    "gradcam": maps.GradCAM,
    "gradcam++": maps.GradCAMPlusPlus,
    "gradient": maps.GradientMap,
    "hirescam": maps.HiResCAM,
    "layercam": maps.LayerCAM,
    "xgradcam": maps.XGradCAM,
}


def test_own_names(model):
    assert maps.names() == sorted(OWN)
    for name, method in OWN.items():
        for spelt in (name, name.upper(), method.__name__):
            assert type(maps.create(spelt, model)) is method


def test_layer_and_options_reach_the_method(model):
    method = maps.create("gradient", model, "layer2", power=2, symmetric=True)
    assert (method.layer, method.power, method.symmetric) == ("layer2", 2, True)
    assert maps.create("gradcam", model, ["layer1", model.layer2], fuse="max").layers == ("layer1", "layer2")


@pytest.mark.parametrize("name", maps.names())
def test_a_method_is_made_again_by_the_layers_that_it_names(model, name):
    method = maps.create(name, model)
    again = maps.create(name, model, list(method.layers))
    assert again.layers == method.layers and maps.create(name, model, method.layer).layer == method.layer


def test_unknown_names_and_options(model):
    with pytest.raises(InputError, match="unknown method 'gradcm' .did you mean 'gradcam'"):
        maps.create("gradcm", model)
    with pytest.raises(InputError, match="unknown option of method 'gradcam' 'power'; known: fuse, reshape"):
        maps.create("gradcam", model, power=2)
