"""The end of a slow study, with SIGALRM and where there is none."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from pipeline.run import alarm as module
from pipeline.run.alarm import StudyTimeout, alarm


@pytest.fixture(params=["SIGALRM", "no SIGALRM"])
def _bell(request, monkeypatch):
    """As on Linux and macOS; as on Windows, where a thread counts."""
    if request.param != "SIGALRM":
        monkeypatch.setattr(module, "_BELL", signal.SIGABRT)
        monkeypatch.delattr(signal, "setitimer")


def busy(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@pytest.mark.usefixtures("_bell")
def test_a_slow_study_ends_and_a_quick_one_is_left_alone(monkeypatch):
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.05)
    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGABRT)}
    began = time.monotonic()
    with pytest.raises(StudyTimeout), alarm(0.1, None):
        busy(30)
    assert time.monotonic() - began < 15
    with alarm(0.1, None):
        pass
    busy(0.4)  # what was counting has stopped
    assert before == {number: signal.getsignal(number) for number in before}


@pytest.mark.usefixtures("_bell")
def test_the_alarm_rings_again_where_it_was_swallowed(monkeypatch):
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.5)
    swallowed = []

    def study():
        with alarm(0.5, None):
            try:
                busy(30)
            except BaseException as error:
                swallowed.append(type(error))
            busy(30)

    with pytest.raises(StudyTimeout):
        study()
    assert swallowed == [StudyTimeout]


@pytest.mark.usefixtures("_bell")
def test_in_another_thread_nothing_is_raised():
    ended = []

    def work():
        with alarm(0.05, None):
            busy(0.3)
        ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [True]
