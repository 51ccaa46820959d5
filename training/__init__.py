"""From data sets to bundles of weights, by `python -m training COMMAND`."""
