"""Tissues of the phantom: label, HU and FDG uptake of each, and one patient's draw of them.

Uptake 60 minutes after injection, body-weight SUV, from normal-tissue surveys:
Ramos et al., Eur J Nucl Med 28:155-164 (2001); Paquet et al., J Nucl Med 45:784-788 (2004: liver 2.1,
mediastinal blood 1.6, and their spread in one patient); Wang et al., Mol Imaging Biol 9:83-90 (2007:
an atlas, cerebellum 8.0 +- 2.2, palatine tonsils 3.45 +- 1.4, testes 2.57 +- 0.56); Zincirkeser et al., J Int
Med Res 35:231-236 (2007); PERCIST, Wahl et al., J Nucl Med 50 suppl 1:122S-150S (2009: liver and blood as
reference); Boktor et al., J Nucl Med 54:677-682 (2013: liver 2.17 +- 0.44, blood 1.55 +- 0.38). HU from
Schneider et al., Phys Med Biol 45:459-478 (2000); HU with
contrast medium are the usual ones of the portal-venous phase, 70 s after injection.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tissue:
    """One tissue: HU without and with contrast medium, and the range its mean SUV is drawn from."""

    hu: float
    hu_contrast: float
    suv_low: float
    suv_high: float


TISSUES: dict[str, Tissue] = {
    "air": Tissue(-1000, -1000, 0.0, 0.0),
    "skin": Tissue(10, 20, 0.4, 0.7),
    "fat": Tissue(-105, -105, 0.20, 0.40),
    "muscle": Tissue(50, 62, 0.60, 0.90),
    "lung": Tissue(-800, -790, 0.40, 0.60),
    "cortical bone": Tissue(850, 850, 0.30, 0.60),
    "marrow": Tissue(200, 215, 1.0, 1.6),
    "fatty marrow": Tissue(20, 20, 0.45, 0.80),
    "blood": Tissue(42, 165, 1.5, 1.8),
    "heart wall": Tissue(48, 110, 1.5, 10.0),
    "liver": Tissue(56, 108, 2.0, 2.4),
    "spleen": Tissue(48, 120, 1.5, 2.0),
    "kidney": Tissue(34, 175, 2.5, 5.0),
    "urine": Tissue(8, 8, 5.0, 25.0),
    "bladder": Tissue(5, 6, 5.0, 40.0),
    "small bowel": Tissue(35, 75, 1.0, 2.2),
    "colon": Tissue(25, 45, 1.0, 2.2),
    "active bowel": Tissue(30, 60, 2.0, 4.0),
    "stomach": Tissue(35, 60, 1.4, 2.8),
    "gut gas": Tissue(-850, -850, 0.4, 0.8),
    "grey matter": Tissue(38, 42, 7.0, 12.0),
    "white matter": Tissue(28, 30, 3.0, 4.5),
    "thyroid": Tissue(95, 150, 1.0, 2.0),
    "gland": Tissue(30, 60, 1.2, 2.6),
    "tonsil": Tissue(45, 70, 1.8, 4.5),
    "brown fat": Tissue(-90, -90, 3.0, 9.0),
    "airway": Tissue(-990, -990, 0.2, 0.5),
    "pancreas": Tissue(38, 90, 1.1, 1.7),
    "cord": Tissue(30, 35, 1.2, 2.0),
    "brain fluid": Tissue(8, 10, 0.8, 2.0),
    "disc": Tissue(85, 85, 0.6, 0.9),
    "breast": Tissue(5, 20, 0.4, 0.9),
    "gonad": Tissue(35, 50, 1.4, 3.0),
    "vessel wall": Tissue(45, 90, 1.4, 2.0),
    "worked muscle": Tissue(52, 64, 1.3, 2.6),
    "cavity fat": Tissue(-105, -105, 0.25, 0.45),
}
# Tissues of phantoms on organ maps alone. They come last, so that the draws of the others stay what they are.
MORE_TISSUES: dict[str, Tissue] = {
    "prostate": Tissue(40, 60, 1.5, 4.0),
    "thymus": Tissue(30, 45, 1.2, 3.5),
    "inflamed joint": Tissue(35, 50, 1.5, 6.0),
    "scar": Tissue(30, 45, 1.5, 6.0),
}
LABELS: dict[str, int] = {name: label for label, name in enumerate([*TISSUES, *MORE_TISSUES])}
_SKEWED = {"heart wall", "bladder", "urine", "active bowel", "brown fat"}


def draw_suv(rng: np.random.Generator) -> np.ndarray:
    """Mean SUV of each label in one patient: float32 (labels,).

    Uniform in the range, log-uniform where it spans several times; one patient in eight has the
    diffuse marrow uptake of anaemia or growth factors (Wang et al. 2007).
    """
    suv = np.zeros(len(TISSUES), np.float32)
    for label, (name, tissue) in enumerate(TISSUES.items()):
        share = rng.random()
        if name in _SKEWED:
            suv[label] = tissue.suv_low * (tissue.suv_high / tissue.suv_low) ** share
        else:
            suv[label] = tissue.suv_low + share * (tissue.suv_high - tissue.suv_low)
    if rng.random() < 0.125:
        suv[LABELS["marrow"]] *= rng.uniform(1.3, 2.0)
    return suv


def draw_hu(rng: np.random.Generator, contrast: bool) -> np.ndarray:
    """HU of each label in one patient: float32 (labels,); 3 HU of spread, more in lung and liver."""
    hu = np.array([t.hu_contrast if contrast else t.hu for t in TISSUES.values()], np.float32)
    hu[1:] += rng.normal(0, 3, hu.size - 1)
    hu[LABELS["lung"]] += rng.normal(0, 35)
    hu[LABELS["liver"]] -= rng.exponential(5)  # steatosis
    more = [t.hu_contrast if contrast else t.hu for t in MORE_TISSUES.values()]
    return np.concatenate([hu, np.array(more, np.float32)])
