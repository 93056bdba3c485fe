"""Python imports this first in every process whose ``PYTHONPATH`` names the folder. It notes what the process does.

Every file opened for writing, made, moved, changed or deleted, and every socket but those between processes of this
machine (AF_UNIX), become a line in the file that ``LUMBAR_RECORD`` names. Seen is what goes through Python, in the main
process and in all that it starts.
"""
# ruff: noqa: PTH109, PTH115, PTH118  # pathlib may not be imported before the program does

import json
import os
import sys

_CHANGES = {
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.link": (1,),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.removexattr": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.setxattr": (0,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.utime": (0,),
    "shutil.rmtree": (0,),
    "sqlite3.connect": (0,),
}
"""Audit events to the arguments that name what is changed (docs.python.org/3/library/audit_events.html)."""
_FOLDERS = {"os.mkdir": 2, "os.remove": 1, "os.rmdir": 1, "shutil.rmtree": 1}
"""Those that may be relative to an open folder, and the argument that holds it."""
_SOCKETS = ("socket.", "urllib.", "http.", "ftplib.", "smtplib.", "poplib.", "imaplib.", "telnetlib.")
_UNIX = 1
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _place(path, folder=-1):
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    base = os.readlink(f"/proc/self/fd/{folder}") if isinstance(folder, int) and folder >= 0 else os.getcwd()
    return os.path.join(base, os.fsdecode(path))


def _record(out):
    def hook(event, arguments):
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int) or not flags & _WRITING:
                return
            found = [_place(path)]
        elif event in _CHANGES:
            number = _FOLDERS.get(event)
            folder = arguments[number] if number is not None and number < len(arguments) else -1
            found = [_place(arguments[index], folder) for index in _CHANGES[event]]
        elif event.startswith(_SOCKETS):
            family = arguments[1] if event == "socket.__new__" else getattr(arguments and arguments[0], "family", None)
            found = [] if family == _UNIX or event == "socket.gethostname" else [repr(arguments)]
        else:
            return
        for what in found:
            line = json.dumps([os.getpid(), event, what]) + "\n"
            os.write(out, line.encode("utf-8", "surrogateescape"))

    return hook


if "LUMBAR_RECORD" in os.environ:
    sys.addaudithook(_record(os.open(os.environ["LUMBAR_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)))
