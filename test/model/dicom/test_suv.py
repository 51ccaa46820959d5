"""The factor to SUV, rule by rule; expected values are arithmetic on the writer's settings."""

import pytest
from dicom_writer import (
    DOSE_BQ,
    HALF_LIFE_S,
    WEIGHT_KG,
    ge_time,
    philips_factors,
    siemens_time,
)
from pydicom.uid import ImplicitVRLittleEndian
from suv_headers import LATE, code, convert, factor

from model.errors import CaseError

# Units


@pytest.mark.parametrize("vendor", ["ge", "siemens", "philips"])
def test_bqml_is_weight_over_the_dose_decayed_to_the_scan(vendor: str, tmp_path) -> None:
    found = convert(tmp_path, vendor=vendor)
    assert found.factor == factor(3600) and found.decay_s == 3600 and found.warnings == ()
    assert (found.weight_kg, found.dose_bq, found.half_life_s) == (WEIGHT_KG, DOSE_BQ, HALF_LIFE_S)
    assert (found.injection, found.reference) == ("10:00:00", "11:00:00")
    assert found.reference_from == "SeriesTime (0008,0031)"


def test_gml_is_suv_already(tmp_path) -> None:
    for number, suv_type in enumerate((None, "BW")):
        fields = {"Units": "GML", "SUVType": suv_type, "PatientWeight": None}
        assert convert(tmp_path / str(number), fields=fields).factor == 1.0


def test_suv_by_lean_mass_is_refused(tmp_path) -> None:
    with pytest.raises(CaseError, match=r"type LBM \(SUVType \(0054,1006\)\), not BW"):
        convert(tmp_path, fields={"Units": "GML", "SUVType": "LBM"})


def test_counts_of_philips_take_the_suv_factor(tmp_path) -> None:
    found = convert(tmp_path, vendor="philips", edit=philips_factors(0.00042, 1.9), fields={"Units": "CNTS"})
    assert found.factor == 0.00042 and "7053,xx00" in found.route


@pytest.mark.parametrize("suv", [0, None])
def test_counts_of_philips_without_suv_factor_take_the_activity_factor(suv, tmp_path) -> None:
    found = convert(tmp_path, vendor="philips", edit=philips_factors(suv, 1.9), fields={"Units": "CNTS"})
    assert found.factor == pytest.approx(1.9 * 70_000 / (350e6 * 2 ** (-3600 / 6586.2))) and "7053,xx09" in found.route


@pytest.mark.parametrize("edit", [None, philips_factors(0, 0)])
def test_counts_without_a_factor_are_refused(edit, tmp_path) -> None:
    with pytest.raises(CaseError, match="in counts .* or they are 0"):
        convert(tmp_path, edit=edit, fields={"Units": "CNTS"})


@pytest.mark.parametrize("units", ["PROPCPS", "CM2ML", None])
def test_other_units_are_refused(units, tmp_path) -> None:
    with pytest.raises(CaseError, match=f"Units .0054,1001. {units or 'absent'}; SUV can be made from BQML"):
        convert(tmp_path, fields={"Units": units})


# CorrectedImage and DecayCorrection


@pytest.mark.parametrize("done", [["DECY"], ["ATTN"], ["SCAT", "NORM"], None])
def test_a_pet_without_attenuation_and_decay_correction_is_refused(done, tmp_path) -> None:
    with pytest.raises(CaseError, match="without (ATTN|DECY|ATTN and DECY); SUV needs"):
        convert(tmp_path, fields={"CorrectedImage": done})


def test_admin_takes_no_decay(tmp_path) -> None:
    found = convert(tmp_path, fields={"DecayCorrection": "ADMIN"})
    assert found.factor == factor(0) and found.decay_s == 0


def test_none_takes_the_middle_of_each_frame(tmp_path) -> None:
    found = convert(tmp_path, fields={"DecayCorrection": "NONE", "CorrectedImage": ["ATTN"]})
    assert found.factor is None and found.warnings == ()  # two beds: 11:00:00 and 11:03:00, 180 s each
    assert found.slice_factors == tuple(factor(s) for s in [3690] * 3 + [3870] * 3)


def test_none_without_attenuation_correction_is_refused(tmp_path) -> None:
    with pytest.raises(CaseError, match="without ATTN"):
        convert(tmp_path, fields={"DecayCorrection": "NONE", "CorrectedImage": ["DECY"]})


def test_none_without_a_frame_duration_is_refused(tmp_path) -> None:
    with pytest.raises(CaseError, match="ActualFrameDuration .0018,1242., from which the middle"):
        convert(tmp_path, fields={"DecayCorrection": "NONE", "ActualFrameDuration": None})


def test_a_frame_duration_in_seconds_is_refused(tmp_path) -> None:
    message = "ActualFrameDuration .0018,1242. '180', which is in ms: probably in s .180000 ms"
    with pytest.raises(CaseError, match=message):
        convert(tmp_path, fields={"DecayCorrection": "NONE", "CorrectedImage": ["ATTN"], "ActualFrameDuration": 180})


def test_absent_decay_correction_is_start_with_a_warning(tmp_path) -> None:
    found = convert(tmp_path, fields={"DecayCorrection": None})
    assert found.factor == factor(3600) and "taken as START" in found.warnings[0]


def test_another_decay_correction_is_refused(tmp_path) -> None:
    with pytest.raises(CaseError, match="DecayCorrection .0054,1102. END; it must be START, ADMIN or NONE"):
        convert(tmp_path, fields={"DecayCorrection": "END"})


# Reference time


def test_the_series_time_before_the_first_bed_is_the_reference(tmp_path) -> None:
    found = convert(tmp_path, fields={"SeriesTime": "105800"}, edit=ge_time("20240305113000"))
    assert found.factor == factor(3480) and found.warnings == ()


def test_a_late_series_time_gives_way_to_ge(tmp_path) -> None:
    found = convert(tmp_path, fields=LATE, edit=ge_time("20240305105930.00"))
    assert found.factor == factor(3570) and found.warnings == ()
    assert found.reference_from == "(0009,xx0D) of GEMS_PETD_01"


def test_of_several_beds_ge_s_first_time_counts_whichever_slice_holds_it(tmp_path) -> None:
    def edit(header, z: int) -> None:
        ge_time("20240305105930.00" if z > 1 else "20240305110530.00")(header, z)

    assert convert(tmp_path, fields=LATE, edit=edit).factor == factor(3570)


def test_a_late_series_time_gives_way_to_siemens(tmp_path) -> None:
    found = convert(tmp_path, vendor="siemens", fields=LATE, edit=siemens_time("20240305105945.500000"))
    assert found.factor == factor(3585.5) and found.reference_from == "(0071,xx22) of SIEMENS MED PT"


def test_private_elements_of_implicit_files_without_a_known_type_are_read(tmp_path) -> None:
    def edit(header, z: int) -> None:
        siemens_time("20240305105945.500000")(header, z)
        header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian

    assert convert(tmp_path, vendor="siemens", fields=LATE, edit=edit).factor == factor(3585.5)


def test_the_private_time_of_another_creator_is_not_taken(tmp_path) -> None:
    def edit(header, z: int) -> None:
        ge_time("20240305105930.00")(header, z)
        header[0x00090010].value = "SOMEBODY ELSE"

    assert "earliest acquisition" in convert(tmp_path, fields=LATE, edit=edit).warnings[0]


@pytest.mark.parametrize("fields", [LATE, {"SeriesTime": None}])
def test_a_late_or_absent_series_time_else_gives_way_to_the_first_bed(fields, tmp_path) -> None:
    found = convert(tmp_path, fields=fields)
    assert found.factor == factor(3600) and "earliest acquisition, 11:00:00" in found.warnings[0]


def test_the_acquisitions_date_and_time_in_one_will_do(tmp_path) -> None:
    def edit(header, z: int) -> None:
        header.AcquisitionDateTime = f"20240305{header.AcquisitionTime}"
        del header.AcquisitionTime

    assert convert(tmp_path, fields=LATE, edit=edit).factor == factor(3600)


def test_a_late_series_time_without_acquisition_times_is_refused(tmp_path) -> None:
    def edit(header, z: int) -> None:
        del header.AcquisitionTime

    with pytest.raises(CaseError, match=r"has no AcquisitionTime \(0008,0032\) in any slice"):
        convert(tmp_path, fields=LATE, edit=edit)


# Half-life, dose, weight


@pytest.mark.parametrize(
    "value, meaning, half_life_s",
    [
        ("C-111A1", "", 6586.2),
        ("77004003", "", 6586.2),
        ("C-131A3", "", 4062.6),
        ("?", "18F", 6586.2),
        ("?", "Gallium-68", 4062.6),
        ("?", "^18^Fluorine", 6586.2),
        ("?", "F18", 6586.2),
    ],
)
def test_an_absent_half_life_is_that_of_the_isotope_with_a_warning(value, meaning, half_life_s, tmp_path) -> None:
    found = convert(tmp_path, item={"RadionuclideHalfLife": None, "RadionuclideCodeSequence": code(value, meaning)})
    assert found.factor == factor(3600, half_life_s=half_life_s) and "states no half-life" in found.warnings[-1]
    assert ("was made with Ga-68, and the networks know FDG" in found.warnings[0]) == (half_life_s == 4062.6)


def test_an_absent_half_life_of_an_unknown_isotope_is_refused(tmp_path) -> None:
    with pytest.raises(CaseError, match="names no isotope of F-18, C-11.* enter the half-life in s"):
        convert(tmp_path, item={"RadionuclideHalfLife": None, "RadionuclideCodeSequence": code("?", "118F")})


def test_a_half_life_that_is_not_the_isotopes_is_warned_about(tmp_path) -> None:
    found = convert(tmp_path, item={"RadionuclideHalfLife": 4062.6})
    assert found.factor == factor(3600, half_life_s=4062.6) and "isotope F-18 6586.2 s" in found.warnings[0]


def test_a_small_dose_is_mbq_with_a_warning(tmp_path) -> None:
    found = convert(tmp_path, item={"RadionuclideTotalDose": 350})
    assert found.factor == factor(3600) and "taken as MBq" in found.warnings[0]


@pytest.mark.parametrize("dose", [0, None])
def test_no_dose_is_refused(dose, tmp_path) -> None:
    with pytest.raises(CaseError, match="RadionuclideTotalDose .0018,1074. (absent|0.0): without the injected dose"):
        convert(tmp_path, item={"RadionuclideTotalDose": dose})


@pytest.mark.parametrize("weight", [0, None, ""])
def test_no_weight_is_refused_and_a_given_one_helps(weight, tmp_path) -> None:
    with pytest.raises(CaseError, match=r"PatientWeight \(0010,1030\).*give the patient's weight in kg"):
        convert(tmp_path, fields={"PatientWeight": weight})
    found = convert(tmp_path, weight_kg=81.5, fields={"PatientWeight": weight})
    assert found.factor == factor(3600, weight_kg=81.5) and found.weight_from == "given"


def test_no_radiopharmaceutical_is_refused(tmp_path) -> None:
    with pytest.raises(CaseError, match="no RadiopharmaceuticalInformationSequence .0054,0016."):
        convert(tmp_path, fields={"RadiopharmaceuticalInformationSequence": None})


def test_a_field_that_changes_within_the_series_is_refused(tmp_path) -> None:
    def edit(header, z: int) -> None:
        header.PatientWeight = 70 + (z == 4)

    with pytest.raises(CaseError, match="differ in PatientWeight .0010,1030.: 70.0? and 71"):
        convert(tmp_path, edit=edit)


def test_a_text_where_a_number_belongs_is_refused(tmp_path) -> None:
    def edit(header, z: int) -> None:
        header.PatientWeight = "70"
        header["PatientWeight"]._value = "seventy"

    with pytest.raises(CaseError, match="PatientWeight .0010,1030. 'seventy' is not a number; correct the header"):
        convert(tmp_path, edit=edit)


@pytest.mark.parametrize("stated, probably", [("75,5", "a number with a dec"), ("75 kg", "a number with its unit")])
def test_a_number_as_people_write_it_is_named_with_what_it_probably_is(stated: str, probably: str, tmp_path) -> None:
    def edit(header, z: int) -> None:
        header.PatientWeight = "70"
        header["PatientWeight"]._value = stated

    with pytest.raises(CaseError, match=f"PatientWeight .0010,1030. '{stated}' is not a number .probably {probably}"):
        convert(tmp_path, edit=edit)


# SPECT


@pytest.mark.parametrize(
    "change",
    [
        {"item": {"RadionuclideCodeSequence": code("C-163A8", "^99m^Technetium")}},
        {"item": {"RadionuclideCodeSequence": code("?", "Tc-99m")}},
        {"fields": {"CollimatorType": "PARA"}},
        {"fields": {"SeriesDescription": "Bone SPECT AC"}},
        {"fields": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.20"}},
    ],
)
def test_spect_that_says_it_is_pet_is_refused(change, tmp_path) -> None:
    with pytest.raises(CaseError, match="is SPECT, not PET"):
        convert(tmp_path, **change)
