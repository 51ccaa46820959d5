"""Members, selection, scores of ensembles."""
