"""The licence of a bundle's weights and whom to cite, as every output says them."""

import re

NON_COMMERCIAL = "not for commercial use"
UNKNOWN = "unknown"


def spelt_out(licence: str) -> str:
    """The licence, with what NC means."""
    has_nc = "NC" in re.split(r"[^A-Z]+", licence.upper())
    return f"{licence} ({NON_COMMERCIAL})" if has_nc and NON_COMMERCIAL not in licence else licence


def terms_of(licence: str, citation: str) -> str:
    """Licence and citation in a sentence or two, for outputs that have one field of text for them."""
    return f"Licence of the weights: {spelt_out(licence)}." + (f" Cite: {citation}" if citation else "")
