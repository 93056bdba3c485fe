"""Stage three: volumes and landmarks become one cube per cell and view, in the level's own frame.

A cube is a short row of in-plane windows around the level's point, one a slice: slices stay slices, nothing is
interpolated between them. Right sides come out as mirror images of left ones, so that one network sees both.
"""

from pipeline.cubes.cut import Cube, Cubes, StudyCubes, cut_cubes
from pipeline.cubes.settings import CubeSettings, ViewSettings

__all__ = ["Cube", "CubeSettings", "Cubes", "StudyCubes", "ViewSettings", "cut_cubes"]
