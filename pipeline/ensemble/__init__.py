"""From members to a submission: the metric, the prior, calibration and blending, and the run that writes the table."""
