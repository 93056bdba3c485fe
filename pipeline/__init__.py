"""Automatic grading of lumbar spine MRI: volumes, landmarks, cubes, severity, ensemble."""

__version__ = "0.1.0"
