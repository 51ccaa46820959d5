"""Two dates of one patient: which studies, one CT laid onto the other, lesions matched, what changed."""
