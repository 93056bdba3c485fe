"""The training cache: every series of a study decoded once, cropped to the spine, kept at native resolution.

``coding`` packs 16-bit slices without loss, ``kept`` says what of a stack is kept and with which scale, ``store`` is
the file of a study. What is trained on is cut from these files and never from DICOM again.
"""

from pipeline.stacks.kept import KeptStack, keep_stack
from pipeline.stacks.store import StudyStacks, read_stacks, write_stacks

__all__ = ["KeptStack", "StudyStacks", "keep_stack", "read_stacks", "write_stacks"]
