"""What the stacks of one series folder show, and which of them are used where there are several of one place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.labels import SeriesKind
from pipeline.volumes.belonging import contrast_key, preference
from pipeline.volumes.classify import contrast_of, kind_of, told_contrast, told_plane
from pipeline.volumes.placing import PlacedFrame
from pipeline.volumes.stacking import find_strangers, overlap
from pipeline.volumes.volume import Plane

Stack = list[PlacedFrame]


@dataclass(frozen=True)
class Choice:
    """The kind of each stack, and what is to be said of it: code, sentence, file."""

    kinds: list[SeriesKind]
    problems: list[tuple[str, str, str | None]]


def choose_kinds(stacks: Sequence[Stack], sources: Sequence[int], told: SeriesKind | None) -> Choice:
    """What each stack of a folder shows; UNKNOWN for what is not of the series, or is shown better by another stack.

    Args:
        stacks: of the folder.
        sources: which of the folder's series each belongs to (they are told apart by SeriesInstanceUID).
        told: what the table says of the folder.
    """
    problems: list[tuple[str, str, str | None]] = []
    kinds = [kind_of(told, stack[0].plane, stack[0].frame.acquisition) for stack in stacks]
    strangers = find_strangers(stacks, sources, told_plane(told))
    for number, (what, sentence) in strangers.items():
        kinds[number] = SeriesKind.UNKNOWN
        problems.append((what, f"{len(stacks[number])} images: {sentence}", stacks[number][0].frame.file))
    left = [number for number in range(len(stacks)) if number not in strangers]
    if len({sources[number] for number in left}) > 1:
        problems += _tell_series_apart(stacks, sources, left, told, kinds)
    rivals: defaultdict[tuple[int, Plane, SeriesKind], list[int]] = defaultdict(list)
    for number in left:
        rivals[sources[number], stacks[number][0].plane, kinds[number]].append(number)
    for (_, _, kind), numbers in rivals.items():
        if kind is not SeriesKind.UNKNOWN:
            problems += _prefer(stacks, numbers, kinds)
    return Choice(kinds, problems)


def _tell_series_apart(
    stacks: Sequence[Stack],
    sources: Sequence[int],
    left: Sequence[int],
    told: SeriesKind | None,
    kinds: list[SeriesKind],
) -> list[tuple[str, str, str | None]]:
    """Several series lie in the folder, so the table's word on it is that of one of them: set ``kinds`` accordingly."""
    count = len({sources[number] for number in left})
    contrasts = {sources[number]: contrast_of(stacks[number][0].frame.acquisition) for number in left}
    known = set(contrasts.values())
    if told is None or len(known - {None}) == 1 == len(known):
        return [("mixed-series", f"{count} series lie in this folder; each is read for itself", None)]
    for number in left:
        own = contrasts[sources[number]]
        alone = own is None and told_contrast(told) not in known and list(contrasts.values()).count(None) == 1
        if not alone:
            kinds[number] = kind_of(None, stacks[number][0].plane, stacks[number][0].frame.acquisition)
    unknown = sum(own is None for own in contrasts.values())
    lost = f", of {unknown} of them nothing tells T1 from T2: not graded" if unknown else ""
    return [("mixed-series", f"{count} series lie in this folder, which the table calls {told}{lost}", None)]


def _prefer(
    stacks: Sequence[Stack], numbers: Sequence[int], kinds: list[SeriesKind]
) -> list[tuple[str, str, str | None]]:
    """Of several contrasts of the same slices the best keeps its kind; repeats of it keep theirs."""
    by_key: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for number in numbers:
        by_key[contrast_key(stacks[number][0].frame)[:-1]].append(number)
    is_t1 = kinds[numbers[0]] is SeriesKind.SAGITTAL_T1
    ranked = sorted(by_key.values(), key=lambda group: preference(stacks[group[0]][0].frame, is_t1))
    best, *others = ranked
    problems: list[tuple[str, str, str | None]] = []
    for group in others:
        for number in group:
            if not any(overlap(stacks[number], stacks[other]) for other in best):
                continue
            kinds[number] = SeriesKind.UNKNOWN
            sentence = f"another image of slices that {stacks[best[0]][0].frame.file} and others show better; not used"
            problems.append(
                ("further-contrast", f"{len(stacks[number])} images: {sentence}", stacks[number][0].frame.file)
            )
    return problems
