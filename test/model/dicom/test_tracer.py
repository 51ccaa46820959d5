"""FDG passes in silence, all other tracers get a warning; codes and names are those of DICOM's own context group."""

import pytest
from dicom_writer import write_pet
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.codedict import codes

from model.dicom.headers import find_series
from model.dicom.suv import find_conversion
from model.dicom.tracer import tracer_warnings

CID_4021 = [getattr(codes.CID4021, name) for name in dir(codes.CID4021) if not name.startswith(("_", "trait"))]
COMPOUNDS = [c for c in CID_4021 if hasattr(c, "meaning")]


def code(value: str, meaning: str = "", scheme: str = "SCT") -> Items:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Items([item])


def warnings_of(fields: dict | None = None, **changes) -> list[str]:
    item, header = Dataset(), Dataset()
    fluorine = {"RadionuclideHalfLife": 6586.2, "RadionuclideCodeSequence": code("C-111A1", "^18^Fluorine", "SRT")}
    for keyword, value in (fluorine | changes).items():
        if value is not None:
            setattr(item, keyword, value)
    for keyword, value in (fields or {}).items():
        setattr(header, keyword, value)
    header.filename, header.RadiopharmaceuticalInformationSequence = "pet.dcm", Items([item])
    return tracer_warnings(header)


def test_every_compound_of_dicoms_context_group_but_fdg_gets_a_warning() -> None:
    assert len(COMPOUNDS) > 90
    for compound in COMPOUNDS:
        is_fdg = compound.value == "35321007"
        for item in (
            {"RadiopharmaceuticalCodeSequence": code(compound.value, compound.meaning)},
            {"RadiopharmaceuticalCodeSequence": code(compound.value)},
            {"Radiopharmaceutical": compound.meaning},
        ):
            found = warnings_of(**item)
            assert len(found) == (not is_fdg), (item, found)


@pytest.mark.parametrize(
    "label",
    [
        "FDG",
        "F18-FDG",
        "18F-FDG",
        "[18F]FDG",
        "F-18 FDG",
        "FDG F18",
        "FDG -- fluorodeoxyglucose",
        "fdg",
        "18FDG",
        "F18FDG",
        "Fluorodeoxyglucose",
        "FLUORODEOXYGLUCOSE",
        "Fluorodeoxyglucose F^18^",
        "^18^F-Fluorodeoxyglucose",
        "2-deoxy-2-[18F]fluoro-D-glucose",
        "2-[F-18]-fluoro-2-deoxy-D-glucose",
        "Fludeoxyglucose F 18",
        "Fluordesoxyglukose",
        "Fluordeoxyglucose (18F)",
        "Fluorod\u00e9soxyglucose",
        "fluorodesossiglucosio",
        "Fluordesoxiglicose",
        "Florodeoksiglukoz",
        "Fluorodeoksyglukoza",
        "Glucosa F18",
        "Fluorodesoxiglucosa",
        "F-18 Glucose",
        "FDG-PET",
        "Glucose",
        "Deoxyglucose 18F",
        "\u6c1f\u4ee3\u8131\u6c27\u8461\u8404\u7cd6",
        "FDG_F18",
        "FDG (LIST)",
        "EFDEGE",
    ],
)
def test_fdg_passes_in_silence_however_it_is_spelt(label: str) -> None:
    unicode = {"SpecificCharacterSet": "ISO_IR 192"}
    assert warnings_of(unicode, Radiopharmaceutical=label) == []
    assert warnings_of(unicode, RadiopharmaceuticalCodeSequence=code("local-7", label, "99LOCAL")) == []


@pytest.mark.parametrize(
    "label",
    [
        "",
        "F18",
        "18F",
        "F-18",
        "^18^Fluorine",
        "Fluorine F^18^",
        "UNKNOWN",
        "Other",
        "N/A",
        "Solution",
        "None",
        "F18 Injection",
        "Radiopharmaceutical",
    ],
)
def test_a_label_that_names_no_compound_passes(label: str) -> None:
    assert warnings_of(Radiopharmaceutical=label) == []


@pytest.mark.parametrize(
    "value, scheme",
    [
        ("C-B1031", "SRT"),
        ("C-B1031", "SNM3"),
        ("35321007", "SCT"),
        ("C-111A1", "SRT"),
    ],
)
def test_codes_of_fdg_and_of_fluorine_pass(value: str, scheme: str) -> None:
    assert warnings_of(RadiopharmaceuticalCodeSequence=code(value, "", scheme)) == []


@pytest.mark.parametrize(
    "label",
    [
        "PSMA-1007",
        "18F-PSMA-1007",
        "[18F]PSMA",
        "F18 DCFPyL",
        "PYLARIFY",
        "Sodium fluoride",
        "NaF",
        "18F-NaF",
        "F18 NAF",
        "F-DOPA",
        "18F-DOPA",
        "FDOPA",
        "Fluoro-L-dopa",
        "FET",
        "18F-FET",
        "Fluoroethyltyrosine",
        "FLT",
        "F-Choline",
        "Fluciclovine",
        "FES",
        "Florbetapir",
        "Flortaucipir",
        "FMISO",
    ],
)
def test_other_compounds_of_f18_get_a_warning_that_names_the_field(label: str) -> None:
    (warning,) = warnings_of(Radiopharmaceutical=label)
    assert f"was made with {label!r} (Radiopharmaceutical (0018,0031)), and the networks know FDG (F-18)" in warning
    (warning,) = warnings_of(RadiopharmaceuticalCodeSequence=code("x", label))
    assert "RadiopharmaceuticalCodeSequence (0054,0304)" in warning and warning.endswith("its mask has no meaning")


@pytest.mark.parametrize("label", ["18FNaF", "FDGal", "NX-4711", "Oncology", "F18-XYZ"])
def test_a_warning_says_that_a_compound_is_not_known(label: str) -> None:
    (warning,) = warnings_of(Radiopharmaceutical=label)
    assert f"names its tracer {label!r} (Radiopharmaceutical (0018,0031)), which is not known as FDG" in warning


def test_a_text_and_a_code_that_contradict_each_other_get_a_warning() -> None:
    fdg, psma = code("35321007", "Fluorodeoxyglucose F^18^"), code("126758", "PSMA-1007 F^18^", "DCM")
    (warning,) = warnings_of(Radiopharmaceutical="PSMA-1007", RadiopharmaceuticalCodeSequence=fdg)
    assert "'PSMA-1007'" in warning
    (warning,) = warnings_of(Radiopharmaceutical="FDG", RadiopharmaceuticalCodeSequence=psma)
    assert "'PSMA-1007 F^18^'" in warning
    assert warnings_of(Radiopharmaceutical="lot 4711", RadiopharmaceuticalCodeSequence=fdg) == []


def test_a_description_that_names_another_compound_gets_a_warning_without_its_other_words() -> None:
    (warning,) = warnings_of({"StudyDescription": "Mueller PSMA PET"})
    assert "'psma' (by its StudyDescription (0008,1030))" in warning and "Mueller" not in warning
    assert warnings_of({"SeriesDescription": "PSMA"}, Radiopharmaceutical="FDG") == []
    assert warnings_of({"SeriesDescription": "FDG, negative in PSMA"}) == []


@pytest.mark.parametrize(
    "item, name",
    [
        ({"RadionuclideCodeSequence": code("C-131A3", "^68^Gallium")}, "Ga-68"),
        ({"RadionuclideCodeSequence": None, "RadionuclideHalfLife": 4062.6}, "Ga-68 (by its half-life)"),
        ({"RadionuclideCodeSequence": None, "RadionuclideHalfLife": 1221.8}, "C-11 (by its half-life)"),
        (
            {"RadionuclideCodeSequence": code("x", "^44^Scandium"), "RadionuclideHalfLife": 14292.0},
            "'^44^Scandium', half",
        ),
    ],
)
def test_other_radionuclides_are_named_by_code_or_by_half_life(item: dict, name: str) -> None:
    assert name in warnings_of(**item)[0]


def test_a_radionuclide_spelt_otherwise_with_the_half_life_of_f18_passes() -> None:
    assert warnings_of(RadionuclideCodeSequence=code("x", "Fluor Achtzehn")) == []
    assert warnings_of(RadionuclideCodeSequence=None) == []


@pytest.mark.parametrize("units", ["BQML", "GML"])
def test_the_warning_is_the_conversions(units: str, tmp_path) -> None:
    paths = write_pet(tmp_path, item={"Radiopharmaceutical": "PSMA-1007"}, fields={"Units": units})
    (warning,) = find_conversion(find_series(paths)[0].headers).warnings
    assert "'PSMA-1007'" in warning and warning.endswith("its mask has no meaning")
