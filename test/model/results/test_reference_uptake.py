import numpy as np
import pytest

from model.errors import ConfigError
from model.results.lesion_rules import Surroundings
from model.results.reference_options import Sphere, sphere_from
from model.results.reference_uptake import uptake_in_mask, uptake_in_organ, uptake_in_sphere
from model.study.geometry import Grid

SHAPE = (20, 24, 28)
# x runs to the patient's right: the first voxel's centre lies at 70, 0, 0
GRID = Grid(size=SHAPE[::-1], spacing_mm=(5.0, 5.0, 5.0), origin_mm=(70, 0, 0), direction=(-1, 0, 0, 0, 1, 0, 0, 0, 1))
NAMES = ("liver", "heart")


def around(**changes) -> Surroundings:
    """SUV 2, and 4 in every voxel with odd x; the liver is a block of 12 voxels (60 mm) each way."""
    suv = np.full(SHAPE, 2.0, np.float32)
    suv[:, :, 1::2] = 4
    organs = np.zeros(SHAPE, np.uint8)
    organs[4:16, 4:16, 4:16] = 1
    return Surroundings(**{"suv": suv, "grid": GRID, "organs": organs, "organ_names": NAMES} | changes)


NO_LESION = np.zeros(SHAPE, bool)


def test_a_sphere_lies_where_patient_coordinates_say() -> None:
    """Radius 5 mm around voxel x 10: itself and six neighbours, of which two have odd x and SUV 4."""
    found, why = uptake_in_sphere(around(), NO_LESION, Sphere(centre_mm=(20, 50, 50), radius_mm=5), "here")
    assert found is not None and not why
    assert found.suv_mean == pytest.approx((5 * 2 + 2 * 4) / 7) and found.volume_ml == pytest.approx(7 * 0.125)
    assert found.suv_sd == pytest.approx(np.std([2] * 5 + [4] * 2)) and found.lesion_ml == 0
    lesion = NO_LESION.copy()
    lesion[10, 10, 10] = True
    held, _ = uptake_in_sphere(around(), lesion, Sphere(centre_mm=(20, 50, 50), radius_mm=5), "here")
    assert held is not None and held.lesion_ml == pytest.approx(0.125)


def test_a_sphere_outside_the_pet_or_between_its_voxels_is_none_with_a_reason() -> None:
    for centre in ((80, 50, 50), (20, 50, -50)):
        found, why = uptake_in_sphere(around(), NO_LESION, Sphere(centre_mm=centre, radius_mm=15), "here")
        assert found is None and "does not lie within the PET" in why
    found, why = uptake_in_sphere(around(), NO_LESION, Sphere(centre_mm=(17.5, 50, 50), radius_mm=1), "here")
    assert found is None and "holds no voxel's centre" in why


def test_the_livers_sphere_is_put_away_from_its_surface_and_from_lesions() -> None:
    lesion = NO_LESION.copy()
    found, _ = uptake_in_organ(around(), lesion, "liver")
    assert found is not None and 2 < found.suv_mean < 4 and "in the liver of the organ map" in found.source
    assert found.volume_ml == pytest.approx(4 / 3 * np.pi * 1.5**3, rel=0.1)  # 3 cm wide
    lesion[4:16, 4:16, 9:11] = True  # cuts it into blocks 25 mm and 25 mm wide
    assert "no place without lesions for a sphere 30 mm wide" in uptake_in_organ(around(), lesion, "liver")[1]


@pytest.mark.parametrize(
    ("changes", "what", "words"),
    [
        ({"organs": None}, "liver", "ask for --organs"),
        ({}, "blood", "knows no descending aorta"),
        ({"organs": np.zeros(SHAPE, np.uint8)}, "liver", "was not found"),
    ],
)
def test_without_the_organ_there_is_a_reason(changes, what, words) -> None:
    found, why = uptake_in_organ(around(**changes), NO_LESION, what)
    assert found is None and words in why


def test_a_segmentation_is_taken_as_it_is() -> None:
    mask = NO_LESION.copy()
    mask[0, 0, :2] = True
    found, _ = uptake_in_mask(around(), NO_LESION, mask, "segmentation")
    assert found is not None and (found.suv_mean, found.suv_sd, found.volume_ml) == (3, 1, 0.25)
    assert uptake_in_mask(around(), NO_LESION, NO_LESION, "segmentation")[1] == "the segmentation is empty"


def test_a_spheres_text_is_checked() -> None:
    assert sphere_from("-60, 20;410.5", "liver", "--liver-sphere") == Sphere(centre_mm=(-60, 20, 410.5), radius_mm=15)
    assert sphere_from("1,2,3,4", "blood", "x").radius_mm == 4 and sphere_from("1,2,3", "blood", "x").radius_mm == 5
    for text in ("-60,5; -30; 410,5", "-60,5 -30 410,5", "\u221260.5 -30 410.5", "-60.5, -30, 410.5"):
        assert sphere_from(text, "liver", "x").centre_mm == (-60.5, -30, 410.5)
    with pytest.raises(ConfigError, match="could be -60, 5, -30, 41 or -60.5, -30, 41 mm; write decimals with a point"):
        sphere_from("-60,5 -30 41", "liver", "x")
    for text in ("1,2", "1,2,x", "1,2,nan", "1,2,3,0", "1,2,3,51", "1,2,1e6", "1,2,3,4,5"):
        with pytest.raises(ConfigError, match="--liver-sphere"):
            sphere_from(text, "liver", "--liver-sphere")
