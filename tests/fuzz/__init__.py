"""Fuzzing of the reader: mutated DICOM files must become problems or volumes, nothing else."""
