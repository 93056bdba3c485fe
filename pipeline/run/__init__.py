"""One run over studies: what is to be done (plan, task), by whom (pool, work), how fast (pace), and what came of it.

``session`` is the run from its plan to its report, ``rounds`` hands the tasks out, ``study`` takes one study through
the four stages, ``board`` keeps the table, ``unseen`` asks the networks about studies they were not trained on.
"""
