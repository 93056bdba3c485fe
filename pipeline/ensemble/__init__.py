"""The networks of one set of weights and their blend: one table of probabilities from what each of them says."""
