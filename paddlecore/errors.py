"""The errors a user can act on. Each carries the exit code that a job scheduler sees."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class SuiteError(Exception):
    """Base of every error whose message is meant for the user; the command line prints it without a traceback."""

    exit_code = 1


class ConfigError(SuiteError):
    """A recipe, override or stored config that cannot be honoured: unknown key, wrong type, class not allowed."""

    exit_code = 2


class DataError(SuiteError):
    """Input that cannot be used: a missing file, a damaged archive, a bad row (named by file and line)."""

    exit_code = 3


class NonFiniteLoss(SuiteError):
    """The loss became NaN or infinite; the message names step, batch ids and the last good checkpoint."""

    exit_code = 4


class CheckpointError(SuiteError):
    """A checkpoint or artefact that is damaged, incomplete, or does not fit the run."""

    exit_code = 5


class RankLost(SuiteError):
    """Another rank of a distributed run has gone; the message says which."""

    exit_code = 6


class Stopped(SuiteError):
    """The run was asked to stop (SIGTERM, SIGUSR1, Ctrl-C) and has saved. 75 is EX_TEMPFAIL: run the command again."""

    exit_code = 75


def listed(problems: Sequence[str], n: int = 5) -> str:
    """The first `n` of several problems, and how many more there are."""
    more = f"; and {len(problems) - n} more" if len(problems) > n else ""
    return "; ".join(problems[:n]) + more


def some(names: Sequence[object], n: int) -> str:
    """The first `n` names, and whether there are more."""
    return ", ".join(map(str, names[:n])) + (", ..." if len(names) > n else "")


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """`"; did you mean 'x' or 'y'?"` for the known names closest to `name`, or an empty string if none is close."""
    lower = {str(k).lower(): str(k) for k in known}
    close = [lower[c] for c in difflib.get_close_matches(str(name).lower(), lower, n=n, cutoff=0.6)]
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
