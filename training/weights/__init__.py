"""A network's weights: in a run's folder, in others' checkpoints, averaged."""
