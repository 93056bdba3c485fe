"""Studies as they come: a medium with its index, an export in one folder, a zip, files that were converted.

``layout`` tells the competition's layout, which is read by :mod:`pipeline.competition` alone, from all others;
``header`` reads what a file says of its origin, ``grouping`` makes studies and series of that, ``masking`` names them
without naming the patient, ``medium`` compares a medium with its index, and ``data`` is the way in.
"""

from pipeline.intake.data import SOURCE_COLUMNS, SOURCES_TABLE, open_data, place_of, write_sources

__all__ = ["SOURCES_TABLE", "SOURCE_COLUMNS", "open_data", "place_of", "write_sources"]
