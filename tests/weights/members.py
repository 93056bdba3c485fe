"""Members of a set of weights whose networks are a few bytes."""

from __future__ import annotations

from pipeline.weights.manifest import Member
from pipeline.weights.seen import seen_list, seen_studies


def add(manifest, name="a", task="canal", content=b"network", studies=(), **options):
    """A member in its folder; ``seen`` lists studies."""
    seen = seen_list(seen_studies(studies))
    manifest.folder.mkdir(exist_ok=True)
    member = Member(name=name, task=task, file=f"{name}.safetensors", sha256="", **options)
    return manifest.add_member(member, content, seen)
