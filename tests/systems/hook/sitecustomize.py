"""Python imports this first in every process whose ``PYTHONPATH`` names the folder: it then is poor in what Linux has.

``LUMBAR_SYSTEM`` names the system to play, ``windows`` or ``macos``. Modules, functions and signals that it lacks are
gone, workers are spawned, file names know no case, and on Windows text is cp1252 with CRLF unless a program says
otherwise, open files can be neither deleted nor replaced, and names may not hold ``:``. What cannot be played is
``sys.platform``, because Python's own library would look for the other system's modules; so a branch on it in the
program is only tried by the workflow that runs on those systems.
"""
# ruff: noqa: PTH100, PTH109, PTH112, PTH117, PTH118, PTH119, PTH206  # pathlib lies above all this

import builtins
import errno
import fcntl
import functools
import io
import os
import signal
import sys

SYSTEM = os.environ.get("LUMBAR_SYSTEM")
PROGRAM = os.environ.get("LUMBAR_PROGRAM", "")
"""The package; some modules, ``/proc`` and what is open are kept from it alone, for the libraries are Linux's."""
_BETWEEN = (__file__, *(f"/{name}.py" for name in ("pathlib", "genericpath", "_local", "shutil", "tempfile")))
"""Between the program and what it asks for: this file, and some of Python's own."""
DISK = os.environ.get("LUMBAR_DISK", "")
"""The folder below which names know no case."""

NOWHERE_ELSE = ("sched_getaffinity", "sched_setaffinity", "memfd_create")
"""What only Linux has in ``os``."""
NOT_ON_WINDOWS = (
    *("O_NOFOLLOW", "O_DIRECTORY", "fork", "forkpty", "mkfifo", "mknod", "chown", "fchown"),
    *("lchown", "killpg", "getpgid", "setsid", "setpgid", "nice"),
    *("getpriority", "setpriority", "posix_fallocate", "posix_fadvise", "preadv"),
    *("getxattr", "setxattr", "listxattr", "sync", "wait3", "wait4", "waitid", "ttyname", "ctermid"),
)
MODULES_NOT_ON_WINDOWS = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "crypt", "spwd", "nis")
SIGNALS_NOT_ON_WINDOWS = (
    *("SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGPIPE", "SIGCONT", "SIGSTOP", "SIGTSTP"),
    *("SIGTTIN", "SIGTTOU", "SIGVTALRM", "SIGPROF", "SIGXCPU", "SIGXFSZ", "setitimer", "getitimer", "alarm", "pause"),
    *("pthread_sigmask", "pthread_kill", "sigwait", "sigpending", "siginterrupt", "sigwaitinfo", "sigtimedwait"),
    *("ITIMER_REAL", "ITIMER_PROF", "ITIMER_VIRTUAL", "SIG_BLOCK", "SIG_UNBLOCK", "SIG_SETMASK"),
)
FORBIDDEN = '<>:"|?*'
"""Signs that no file's name may hold on Windows."""

_lstat, _stat, _listdir, _readlink, _fstat = os.lstat, os.stat, os.listdir, os.readlink, os.fstat


def _remove(module, names):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


# -- names without case -----------------------------------------------------------------------------------------------


def _actual(path):
    """The path as it is on the disk, whatever its case; as it is where there is none."""
    if isinstance(path, int) or not DISK:
        return path
    text = os.fspath(path)
    if isinstance(text, bytes) or (not os.path.isabs(text) and not os.getcwd().startswith(DISK)):
        return path
    full = os.path.abspath(text)
    if not full.startswith(DISK + os.sep):
        return path
    try:
        _lstat(full)
    except OSError:
        pass
    else:
        return path
    found = DISK
    for part in full[len(DISK) + 1 :].split(os.sep):
        try:
            _lstat(os.path.join(found, part))
        except OSError:
            try:
                same = [name for name in _listdir(found) if name.casefold() == part.casefold()]
            except OSError:
                same = []
            part = same[0] if same else part
        found = os.path.join(found, part)
    return found


def _without_case(function, paths=1):
    @functools.wraps(function)
    def call(*given, **named):
        return function(*map(_actual, given[:paths]), *given[paths:], **named)

    return call


# -- files that are open ----------------------------------------------------------------------------------------------


def _open_files():
    """(device, number) and real path of every file that this process has open or mapped."""
    found, paths = set(), []
    for name in _listdir("/proc/self/fd"):
        try:
            state, place = _stat(f"/proc/self/fd/{name}"), _readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        found.add((state.st_dev, state.st_ino))
        paths.append(place)
    with _open("/proc/self/maps", errors="replace") as maps:
        for line in maps:
            parts = line.rstrip("\n").split(maxsplit=5)
            if len(parts) == 6 and parts[5].startswith("/"):
                try:
                    state = _lstat(parts[5])
                except OSError:
                    continue
                found.add((state.st_dev, state.st_ino))
                paths.append(parts[5])
    return found, paths


def _refuse_if_open(path):
    try:
        state = _lstat(path)
    except (OSError, TypeError):
        return
    found, paths = _open_files()
    inside = os.path.join(os.path.realpath(path), "")
    if (state.st_dev, state.st_ino) in found or any(place.startswith(inside) for place in paths):
        raise PermissionError(errno.EACCES, "is being used by another process", os.fspath(path))


def _not_while_open(function, paths):
    @functools.wraps(function)
    def call(*given, **named):
        if _is_asked_by_program():
            for path in given[:paths]:
                _refuse_if_open(path)
        if function is _rename and os.path.lexists(given[1]):
            raise FileExistsError(errno.EEXIST, "exists already", os.fspath(given[1]))
        return function(*given, **named)

    return call


# -- opening ----------------------------------------------------------------------------------------------------------

_open, _os_open, _fsync, _rename, _import = io.open, os.open, os.fsync, os.rename, builtins.__import__


def _check_name(path):
    if SYSTEM == "windows" and isinstance(path, (str, os.PathLike)):
        name = os.path.basename(os.fspath(path))
        if isinstance(name, str) and (set(name) & set(FORBIDDEN) or (name.endswith((" ", ".")) and name.strip("."))):
            raise OSError(errno.EINVAL, "the file name, folder name or volume label syntax is incorrect", name)


def _is_hidden(path):
    """Whether a path below ``/proc`` is asked for by the program itself, and not by a library."""
    if not isinstance(path, (str, os.PathLike)) or not str(os.fspath(path)).startswith(("/proc/", "/dev/shm")):
        return False
    return _is_asked_by_program()


def _is_asked_by_program():
    """Whether what is being called was called by the program, be it by way of Python's own library."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.endswith(_BETWEEN):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(PROGRAM)


def _opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
    if _is_hidden(file):
        raise FileNotFoundError(errno.ENOENT, "no such file", os.fspath(file))
    writes = any(sign in mode for sign in "wax+")
    if writes:
        _check_name(file)
    if SYSTEM == "windows" and "b" not in mode:
        encoding = "cp1252" if encoding in (None, "locale") else encoding
        newline = "\r\n" if newline is None and writes else newline
    return _open(_actual(file), mode, buffering, encoding, errors, newline, closefd, opener)


def _os_opened(path, flags, mode=0o777, *, dir_fd=None):
    if SYSTEM == "windows" and os.path.isdir(path):
        raise PermissionError(errno.EACCES, "is a folder", os.fspath(path))
    if flags & os.O_CREAT:
        _check_name(path)
    return _os_open(_actual(path), flags, mode, dir_fd=dir_fd)


def _stated(path, *given, **named):
    if _is_hidden(path):
        raise FileNotFoundError(errno.ENOENT, "no such file", os.fspath(path))
    return _stat(_actual(path), *given, **named)


def _synced(handle):
    number = handle if isinstance(handle, int) else handle.fileno()
    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "bad file descriptor")
    _fsync(number)


def _imported(name, globals=None, *given, **named):
    if name in MODULES_NOT_ON_WINDOWS and str((globals or {}).get("__file__")).startswith(PROGRAM):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return _import(name, globals, *given, **named)


def _spawn():
    """Make ``spawn`` the only way, on a Mac the usual way, to start a process."""
    import multiprocessing
    import multiprocessing.context as contexts

    multiprocessing.set_start_method("spawn", force=True)
    if SYSTEM == "windows":
        for name in ("fork", "forkserver"):
            contexts._concrete_contexts.pop(name, None)
        multiprocessing.get_all_start_methods = lambda: ["spawn"]


def _play_windows():
    import select

    _remove(os, NOT_ON_WINDOWS)
    _remove(signal, SIGNALS_NOT_ON_WINDOWS)
    _remove(select, ("poll", "epoll"))
    os.supports_dir_fd.clear()
    os.linesep = "\r\n"
    os.fsync = _synced
    for name, paths in (("unlink", 1), ("remove", 1), ("rename", 2), ("replace", 2)):
        setattr(os, name, _not_while_open(getattr(os, name), paths))
    builtins.__import__ = _imported


def play():
    """Take away what the system lacks, in this process and in all that it starts."""
    _remove(os, NOWHERE_ELSE)
    if SYSTEM == "windows":
        _play_windows()
    for name in ("mkdir", "scandir", "listdir", "lstat", "access", "unlink", "remove", "rmdir", "utime", "chmod"):
        setattr(os, name, _without_case(getattr(os, name)))
    for name in ("rename", "replace"):
        setattr(os, name, _without_case(getattr(os, name), 2))
    os.stat, os.open = _stated, _os_opened
    io.open = builtins.open = _opened
    _spawn()


if SYSTEM:
    play()
