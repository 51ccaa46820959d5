"""A study's image in the place of a study, for tests of what the networks do with it."""

from torch import Tensor

from model.inference.outputs import lesion_margin
from model.inference.view import StudyView


def view_of_image(image: Tensor) -> StudyView:
    """The view of a study of which every network takes this image, (2, X, Y, Z)."""
    x, y, z = image.shape[1:]
    return StudyView(
        shape=(x, y, z),
        image=lambda part: image,
        size=lambda part: (x, y, z),
        margin=lambda part, values: lesion_margin(values, part.network),
        channel=lambda part, values, outside: values,
    )
