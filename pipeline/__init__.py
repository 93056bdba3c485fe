"""Automatic grading of lumbar spine MRI. The packages in the order in which the data meets them:

``labels`` is the vocabulary, ``config``, ``files``, ``device`` and ``pictures`` are what every package may use.
``tables`` and ``competition`` read the competition's folder, ``weights`` a set of networks, ``submission`` the table.
``volumes`` reads DICOM series (stage one), ``landmarks`` finds the 25 points (two), ``cubes`` cuts windows around them
(three), ``severity`` grades these (four). ``ensemble`` blends the networks of one set, ``run`` takes all studies
through the stages, ``commands`` are what a person calls. ``phantom`` makes synthetic studies, ``training`` trains the
networks of stages two and four on ``folds``, ``scoring`` measures what they say.

An import goes from a later package to an earlier one and never back; ``lint-imports`` (pyproject.toml) keeps that.
"""

__version__ = "0.1.0"
