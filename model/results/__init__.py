"""What is made from a mask: metrics, lesions, files, pictures."""
