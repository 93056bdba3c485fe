"""Fuzzing: what comes from outside, mutated, must become problems or results, nothing else.

Each target is a module that :data:`TARGETS` names, with three functions:

* ``prepare(folder) -> corpus``: what is mutated, made once in ``folder``; it is sent to the child processes.
* ``begin(corpus, folder) -> run``: in a child process, which may use ``folder``. ``run(seed, number)`` makes a
  case, the same for the same seed, and returns its kind, codes of what came of it, and what was wrong, if anything.
* ``HANG_SECONDS``, if it is there: a case that takes longer hangs.
* ``keep(corpus, seed, number, path)``: write a case that failed, for whoever looks into it.
"""

TARGETS = {
    "dicom": "tests.fuzz.dicom",
    "work": "tests.fuzz.work",
    "weights": "tests.fuzz.weights",
    "tables": "tests.fuzz.tables",
    "intake": "tests.fuzz.intake",
    "properties": "tests.fuzz.properties",
}
