"""What was found wrong in the data and worked around: counted, logged and listed, and never the end of a run."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.names import shown


@dataclass(frozen=True)
class Problem:
    """Something that was found wrong and worked around. ``what`` is a short code to count by.

    Problems are for people, so every text is kept as it is :func:`shown`, whatever it quotes.
    """

    study_id: str
    series_id: str | None
    file: str | None
    what: str
    detail: str

    def __post_init__(self) -> None:
        for name, text in vars(self).items():
            if text is not None:
                object.__setattr__(self, name, shown(text))

    def __str__(self) -> str:
        where = "/".join(part for part in (self.study_id, self.series_id, self.file) if part)
        return f"{where}: {self.what}: {self.detail}" if where else f"{self.what}: {self.detail}"
