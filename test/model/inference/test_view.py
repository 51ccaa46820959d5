import numpy as np
import torch

from model.bundle.network import BodyLevels, Network
from model.bundle.settings import Intensity, Part, Window
from model.inference.view import image_of

HU = np.array([-1000, -701, -699, 40, -1000, -1000], np.float32).reshape(1, 1, 6)
SUV = np.array([0, 0, 0, 0, 0.19, 0.21], np.float32).reshape(1, 1, 6)


def part_of(norm: str, intensity: Intensity, body: BodyLevels = BodyLevels()) -> Part:
    network = Network(fusion="middle", widths=(2, 4), norm=norm, body=body)
    return Part(network=network, intensity=intensity, window=Window(size=(8, 8, 8)))


def test_the_body_is_above_a_level_of_hu_or_of_suv_in_any_units() -> None:
    for intensity in (Intensity(), Intensity(ct_clip=True, suv_clip=True, suv_top=5.0), Intensity(ct_low_hu=-160.0)):
        image = image_of(HU, SUV, part_of("body", intensity))
        assert image.shape == (3, 6, 1, 1) and image[2].flatten().tolist() == [0, 0, 1, 1, 0, 1]
        assert torch.equal(image[:2], image_of(HU, SUV, part_of("instance", intensity)))
    other = image_of(HU, SUV, part_of("body", Intensity(), BodyLevels(hu=0.0, suv=0.1)))
    assert other[2].flatten().tolist() == [0, 0, 0, 1, 1, 1]
