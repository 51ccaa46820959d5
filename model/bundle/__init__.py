"""What a bundle of weights is: its settings and its manifest."""
