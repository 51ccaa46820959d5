"""DICOM in and out: series, SUV, SEG, RTSTRUCT."""
