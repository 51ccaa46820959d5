"""Warnings about a PET whose tracer is not FDG.

The networks are trained on FDG alone. For any other tracer, other compounds of F-18 included (PSMA-1007, sodium
fluoride, DOPA, FET), a mask has no meaning. Headers name the tracer in Radiopharmaceutical (0018,0031), a free text,
and in its code sequence (0054,0304), DICOM PS3.16, CID 4021; many name it in neither.
"""

import re
import unicodedata

from pydicom.dataset import Dataset, FileDataset

from model.dicom.elements import items, number, path_of, tag_name, text
from model.dicom.isotopes import CODES, HALF_LIFE_S, HALF_LIFE_SHARE, isotope_of, radiopharmaceuticals

FDG_ISOTOPE = "F-18"
FDG_CODES = {"C-B1031", "35321007", "C0046056", "FDG"}  # SNOMED-RT, SNOMED CT, UMLS, and scanners' own
FDG_NAMES = re.compile(
    r"fdg(?!al)|(?:fl[uo]|des?ox[yi]|desossi).*gl[uiy][ck]o|^[f18]*glu[ck]os[aeio][f18]*$|metatrace|gluscan|flucis"
    r"|efdege|steripet|脱氧葡萄糖|デオキシグルコース|глюкоз|γλυκοζ|옥시글루코"
)  # in lower case, of letters and digits only, without accents
NO_COMPOUND = re.compile(
    r"(?:18|f|fluorine|fluor|fluorin|positron|emitter|isotope|nuclide|radio|pharmaceutical|tracer|pet|injection|bolus|iv"
    r"|none|unknown|unspecified|other|notapplicable|solution|default|null|anonymi[sz]ed|anonymous|removed)*|na"
)  # words that do not name a compound
_UNMISTAKABLE = (
    r"psma|dcfpyl|piflufolastat|flotufolastat|pylarify|posluma|\bnaf\b|sodium fluorid|\bf?dopa\b|fluorodopa|\bfet\b"
    r"|ethyltyrosin|choline?\b|fluciclovin|axumin|\bfapi\b|dota(?:tate|toc|noc)|florbeta|flutemetamol|amyloid"
)
OTHERS_IN_DESCRIPTIONS = re.compile(_UNMISTAKABLE)  # not FDG; in lower case, other signs as spaces
OTHER_COMPOUNDS = re.compile(
    _UNMISTAKABLE
    + r"|\bflt\b|thymidine|\bfch\b|facbc|\bfes\b|estradiol|amyvid|neuraceq|vizamyl|tauci?pir|\bf?miso\b|\bfaza\b"
    r"|flurpiridaz|octreo|mibg"
)  # also short names, which in a description could be other words
LONGEST_SHOWN = 60  # characters of a tracer's name in a warning
NO_MEANING = f", and the networks know FDG ({FDG_ISOTOPE}): its mask has no meaning"
IF_ANOTHER = f", and the networks know FDG ({FDG_ISOTOPE}): if it is another tracer, its mask has no meaning"


def tracer_warnings(header: FileDataset) -> list[str]:
    """Warnings about a radionuclide or a compound that is not FDG's; none where the header names FDG, or nothing."""
    findings = [*_radionuclide_findings(header), *_compound_findings(header)]
    return [f"PET '{path_of(header)}' {finding}" for finding in findings]


def _radionuclide_findings(header: FileDataset) -> list[str]:
    """One finding that names the radionuclides other than F-18, known by their code, else by their half-life."""
    others = set()
    for item in radiopharmaceuticals(header):
        isotope = isotope_of(item)
        if isotope is None:
            isotope = _isotope_by_half_life(item, header)
        if isotope not in (None, FDG_ISOTOPE):
            others.add(str(isotope))
    return [f"was made with {', '.join(sorted(others))}{NO_MEANING}"] if others else []


def _isotope_by_half_life(item: Dataset, header: FileDataset) -> str | None:
    """The radionuclide with the stated half-life, as a warning names it; None without a half-life."""
    stated_s = number(item, "RadionuclideHalfLife", path_of(header))
    if not stated_s:
        return None
    near = [name for name, known_s in HALF_LIFE_S.items() if abs(stated_s / known_s - 1) <= HALF_LIFE_SHARE]
    if near:
        return near[0] if FDG_ISOTOPE in near else f"{near[0]} (by its half-life)"
    codes = items(item, "RadionuclideCodeSequence")
    return f"{_label(codes[0])!r}, half-life {stated_s:g} s" if codes else None


def _compound_findings(header: FileDataset) -> list[str]:
    """One finding about a compound that is not FDG, or not known as FDG: its name in the header, and the field."""
    labels = [(text(header, "Radiopharmaceutical"), tag_name("Radiopharmaceutical"))]
    is_fdg = False
    for item in radiopharmaceuticals(header):
        labels.append((text(item, "Radiopharmaceutical"), tag_name("Radiopharmaceutical")))
        for code in items(item, "RadiopharmaceuticalCodeSequence"):
            is_fdg |= text(code, "CodeValue") in FDG_CODES
            if CODES.get(text(code, "CodeValue")) != FDG_ISOTOPE:  # some write the radionuclide's code here
                labels.append((_label(code), tag_name("RadiopharmaceuticalCodeSequence")))
    is_fdg |= any(FDG_NAMES.search(_compact(label)) for label, _ in labels)
    for label, field in labels:
        if OTHER_COMPOUNDS.search(_spaced(label)):
            return [f"was made with {label[:LONGEST_SHOWN]!r} ({field}){NO_MEANING}"]
        if not (is_fdg or NO_COMPOUND.fullmatch(_compact(label))):
            return [f"names its tracer {label[:LONGEST_SHOWN]!r} ({field}), which is not known as FDG{IF_ANOTHER}"]
    for keyword in ("SeriesDescription", "StudyDescription", "ProtocolName"):
        description = _spaced(text(header, keyword))
        other = OTHERS_IN_DESCRIPTIONS.search(description)
        if other and not is_fdg and "fdg" not in description:
            return [f"was made with {other[0]!r} (by its {tag_name(keyword)}){NO_MEANING}"]
    return []


def _label(code: Dataset) -> str:
    """A code's meaning, else its value; "" for a code of FDG without a meaning."""
    meaning, value = text(code, "CodeMeaning"), text(code, "CodeValue")
    return "" if value in FDG_CODES and not meaning else meaning or value


def _compact(label: str) -> str:
    """Letters and digits only, in lower case, without accents."""
    return re.sub(r"[\W_]+", "", _plain(label))


def _spaced(label: str) -> str:
    """In lower case, without accents; every other sign is a space."""
    return " ".join(re.sub(r"[\W_]+", " ", _plain(label)).split())


def _plain(label: str) -> str:
    """Lower case, without accents."""
    decomposed = unicodedata.normalize("NFKD", label.casefold())
    return unicodedata.normalize("NFC", "".join(sign for sign in decomposed if not unicodedata.combining(sign)))
