"""The competition's metric, and what else is measured of grades that were predicted out of fold."""
