import csv
import io

from model.results.lesion_table import lesions_csv, lesions_json
from model.results.lesions import Lesion, Totals

LESION = Lesion(
    number=1,
    volume_ml=1.23456789,
    suv_max=9.0,
    suv_mean=4.5,
    suv_peak=7.25,
    tlg_suv_ml=5.5555555,
    centroid_x_mm=-1.0,
    centroid_y_mm=2.0,
    centroid_z_mm=-300.125,
    long_diameter_mm=14.0,
)
TOTALS = Totals(lesions=1, mtv_ml=1.23456789, tlg_suv_ml=5.5555555, suv_max=9.0, suv_peak=7.25, dmax_mm=None)


def test_a_lesion_is_a_row_and_says_research_use() -> None:
    (row,) = csv.DictReader(io.StringIO(lesions_csv([LESION])))
    assert (row["number"], row["volume_ml"], row["centroid_z_mm"]) == ("1", "1.2346", "-300.125")
    assert row["notice"].startswith("Research use only")


def test_without_lesions_there_are_only_the_column_names() -> None:
    assert lesions_csv([]).splitlines() == [
        "number,volume_ml,suv_max,suv_mean,suv_peak,tlg_suv_ml,centroid_x_mm,centroid_y_mm,centroid_z_mm,"
        "long_diameter_mm,notice"
    ]


def test_the_json_holds_lesions_totals_and_definitions() -> None:
    found = lesions_json([LESION], TOTALS)
    assert found["totals"] == {
        "lesions": 1,
        "mtv_ml": 1.2346,
        "tlg_suv_ml": 5.5556,
        "suv_max": 9.0,
        "suv_peak": 7.25,
        "dmax_mm": None,
    }
    assert found["lesions"][0]["number"] == 1 and "suv_peak" in found["definitions"]
