"""From a PET/CT study to a tumour-lesion mask: the road that process.py walks."""

__version__ = "0.1.0"
RESEARCH = "Research use only; not a medical device."
