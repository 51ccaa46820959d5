"""What outputs say of a bundle's licence."""

import pytest

from model.bundle.licence import spelt_out, terms_of


@pytest.mark.parametrize("licence", ["CC BY-NC-SA 4.0", "cc-by-nc-4.0", "CC_BY_NC"])
def test_nc_is_spelt_out_once(licence: str) -> None:
    assert spelt_out(licence) == spelt_out(spelt_out(licence)) == f"{licence} (not for commercial use)"


@pytest.mark.parametrize("licence", ["MIT", "CC BY 4.0", "Encumbered by NCSA terms", "unknown"])
def test_other_licences_stay_as_they_are(licence: str) -> None:
    assert spelt_out(licence) == licence


def test_terms_name_the_citation_where_there_is_one() -> None:
    assert terms_of("MIT", "") == "Licence of the weights: MIT."
    assert terms_of("CC BY-NC 4.0", "A et al.") == (
        "Licence of the weights: CC BY-NC 4.0 (not for commercial use). Cite: A et al."
    )
