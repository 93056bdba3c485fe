"""Stage four: cubes become three grades per condition and level; one classifier per condition family."""
