"""What a network is worth: its masks of prepared studies, their scores, and who may be judged."""
