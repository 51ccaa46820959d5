"""What comes of a mask: metrics, lesions, files, pictures."""
