"""From a PET/CT study to a tumour-lesion mask."""

__version__ = "0.1.0"
RESEARCH = "Research use only; not a medical device."
PET_ALONE = "PET alone, no CT"  # how every output marks a study whose networks saw no CT
