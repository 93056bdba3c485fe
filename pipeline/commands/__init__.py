"""Every command of ``python -m pipeline`` and ``submit.py``: its arguments, and what it says at the end."""
