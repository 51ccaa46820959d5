import csv
import io

import numpy as np

from model.results.body_size import BodySize
from model.results.lesion_numbers import LesionNumbers, Yardsticks, study_numbers
from model.results.lesion_rules import DroppedLesion, RuledMask
from model.results.lesion_table import dropped_csv, lesions_csv, lesions_json
from model.results.lesions import Lesion, Totals
from model.results.rule_options import LesionRules
from model.results.study_measures import StudyMeasures

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
MORE = LesionNumbers(
    found_volume_ml=2.0,
    organ=None,
    sphericity=0.81,
    sul_max=None,
    sul_mean=None,
    sul_peak=None,
    sul_peak_james=None,
    percist_measurable="yes",
    suv_peak_to_liver=3.5,
    suv_peak_to_blood=None,
)
DROPPED = (
    DroppedLesion(number=1, volume_ml=5.0, suv_max=30.0, reason="by hand"),
    DroppedLesion(number=2, volume_ml=3.0, suv_max=0.04, reason="in air"),
)


def measures(dropped: tuple[DroppedLesion, ...] = ()) -> StudyMeasures:
    empty = np.zeros((1, 1, 1), np.int32)
    ruled = RuledMask(mask=empty > 0, labels=empty, found_ml={1: 5.0, 2: 3.0, 3: 2.0}, dropped=dropped)
    yardsticks = Yardsticks(size=BodySize(), liver=None, blood=None, why={"liver": "no organs", "blood": "no organs"})
    return StudyMeasures(
        mask=empty > 0,
        numbers=empty,
        lesions=(LESION,),
        totals=TOTALS,
        more=(MORE,),
        study=study_numbers((LESION,), TOTALS, yardsticks),
        yardsticks=yardsticks,
        rules=LesionRules(drop=(1,), in_air=True) if dropped else LesionRules(),
        ruled=ruled if dropped else None,
        warnings=(),
    )


def test_a_lesion_is_a_row_and_says_research_use() -> None:
    (row,) = csv.DictReader(io.StringIO(lesions_csv([LESION], [MORE])))
    assert (row["found_volume_ml"], row["organ"], row["percist_measurable"], row["sphericity"]) == (
        "2.0",
        "",
        "yes",
        "0.81",
    )
    assert (row["number"], row["volume_ml"], row["centroid_z_mm"]) == ("1", "1.2346", "-300.125")
    assert row["notice"].startswith("Research use only")


def test_without_lesions_there_are_only_the_column_names() -> None:
    (head,) = lesions_csv([], []).splitlines()
    assert head.startswith(  # other people's scripts may go by the place of a column
        "number,volume_ml,suv_max,suv_mean,suv_peak,tlg_suv_ml,centroid_x_mm,centroid_y_mm,centroid_z_mm,"
        "long_diameter_mm,notice,found_volume_ml"
    )


def test_the_json_holds_lesions_totals_and_definitions() -> None:
    found = lesions_json(measures())
    assert found["totals"] == {
        "lesions": 1,
        "mtv_ml": 1.2346,
        "tlg_suv_ml": 5.5556,
        "suv_max": 9.0,
        "suv_peak": 7.25,
        "dmax_mm": None,
    }
    assert found["lesions"][0]["number"] == 1 and "suv_peak" in found["definitions"]
    assert "rules" not in found and found["numbers"]["sul_peak"] is None
    assert found["numbers"]["why"]["sul_peak"] == (
        "the patient's weight and height and sex are not known: give weight_kg and height_m and sex"
    )
    assert found["numbers"]["references"]["liver"] == {"why": "no organs"}


def test_what_rules_left_out_is_listed_apart_with_its_sums() -> None:
    rules = lesions_json(measures(DROPPED))["rules"]
    assert (rules["found_lesions"], rules["found_mtv_ml"]) == (3, 10.0)
    assert (rules["dropped_lesions"], rules["dropped_ml"]) == (2, 8.0)
    assert rules["rules"] == {"drop": (1,), "in_air": True}
    one, two = csv.DictReader(io.StringIO(dropped_csv(DROPPED)))
    assert (one["number"], one["reason"], two["suv_max"]) == ("1", "by hand", "0.04")
    assert two["notice"].startswith("Research use only")
