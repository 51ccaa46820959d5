"""From a study to its mask: preprocessing, windows, ensembles."""
