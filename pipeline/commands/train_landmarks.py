"""``python -m pipeline train landmarks``: the network that finds the levels on sagittal series."""

from __future__ import annotations

from functools import partial

from pipeline.commands.train import add_point_arguments, run_points

add_arguments = partial(add_point_arguments, "landmarks")
run = partial(run_points, "landmarks")
