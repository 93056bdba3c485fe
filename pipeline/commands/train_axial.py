"""``python -m pipeline train axial``: the network that finds the subarticular points on axial slices."""

from __future__ import annotations

from functools import partial

from pipeline.commands.train import add_point_arguments, run_points

add_arguments = partial(add_point_arguments, "axial")
run = partial(run_points, "axial")
