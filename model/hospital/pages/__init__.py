"""Tables and pages of a batch."""
