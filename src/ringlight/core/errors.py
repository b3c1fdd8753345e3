"""Every error that Ringlight raises on purpose, as one tree with stable codes.

    RinglightError
    ├── InvalidRequest       invalid_request      what the user asked cannot be made; names every problem
    ├── InvalidCheckpoint    invalid_checkpoint   the folder is not a checkpoint that we can run
    ├── InvalidLayout        invalid_layout       the degrees do not fit the machine or the model
    ├── InvalidSetting       invalid_setting      a flag or a settings file contradicts itself
    ├── InvalidInstallation  invalid_installation what workers need is not there: torch, a temporary folder
    ├── NotFound             not_found            there is no such video, or it is another's
    ├── QueueFull            queue_full           as many jobs wait as may; come back later
    ├── Cancelled            cancelled            somebody asked for it
    ├── DeadlineExceeded     deadline_exceeded    the job was not over in the time it was given
    ├── OutOfMemory          out_of_memory        one job did not fit; the worker lives on
    ├── NumericalError       numerical_error      a stage made NaN or infinity
    ├── OutputError          output_error         the video cannot be written: disk full, rights
    ├── StoreError           store_error          the database of jobs does not answer or cannot be written
    ├── MediaError           media_error          the object store of the videos does not answer, or refuses
    └── WorkerError          worker_error         a worker process died or failed unexpectedly

The code is what crosses process and network boundaries; the message is one line that names the remedy. What else is
known of a code stands in core.codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ringlight.core.codes import CODES, ErrorKind


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong with a request: the field, what is wrong, and the nearest value that is right."""

    field: str
    message: str
    nearest: str | None = None

    def __str__(self) -> str:
        hint = f" (nearest: {self.nearest})" if self.nearest is not None else ""
        return f"{self.field}: {self.message}{hint}"


class RinglightError(Exception):
    """Base of all errors raised on purpose. `code` is stable; `str(error)` is for people."""

    code = "error"

    @property
    def kind(self) -> ErrorKind:
        """Facts about errors of this class."""
        return CODES.get(type(self).code, CODES[RinglightError.code])


class InvalidRequest(RinglightError):
    """Error for a request that cannot be made as asked. `problems` names all that is wrong at once."""

    code = "invalid_request"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))

    @classmethod
    def of(cls, field: str, message: str, nearest: str | None = None) -> InvalidRequest:
        """An error with a single problem."""
        return cls([Problem(field, message, nearest)])

    def about(self, field: str) -> InvalidRequest:
        """Same error about another field: whoever looks at a picture does not know which one it is."""
        return InvalidRequest([msgspec.structs.replace(problem, field=field) for problem in self.problems])


class InvalidCheckpoint(RinglightError):
    code = "invalid_checkpoint"


class InvalidLayout(RinglightError):
    code = "invalid_layout"


class InvalidSetting(RinglightError):
    code = "invalid_setting"


class InvalidInstallation(RinglightError):
    code = "invalid_installation"


class Occupied(InvalidSetting):
    """Error for a resource that another process uses; the same setting may work later."""


class NotFound(RinglightError):
    code = "not_found"


class QueueFull(RinglightError):
    """Error for a full queue. `retry_seconds`: when it is worth another try."""

    code = "queue_full"

    def __init__(self, message: str, retry_seconds: float = 1.0) -> None:
        self.retry_seconds = retry_seconds
        super().__init__(message)


class Cancelled(RinglightError):
    code = "cancelled"


class DeadlineExceeded(RinglightError):
    code = "deadline_exceeded"


class OutOfMemory(RinglightError):
    code = "out_of_memory"


class NumericalError(RinglightError):
    code = "numerical_error"


class OutputError(RinglightError):
    code = "output_error"


class StoreError(RinglightError):
    code = "store_error"


class MediaError(RinglightError):
    """Error of the object store. `detail` is for the operator: what the store answered."""

    code = "media_error"

    def __init__(self, message: str, detail: str = "") -> None:
        self.detail = detail
        super().__init__(message)


class WorkerError(RinglightError):
    code = "worker_error"


ERRORS: dict[str, type[RinglightError]] = {
    kind.code: kind
    for kind in (
        InvalidCheckpoint,
        InvalidLayout,
        InvalidSetting,
        InvalidInstallation,
        NotFound,
        QueueFull,
        Cancelled,
        DeadlineExceeded,
        OutOfMemory,
        NumericalError,
        OutputError,
        StoreError,
        MediaError,
    )
}


def from_code(code: str, message: str, problems: Sequence[Problem] = ()) -> RinglightError:
    """The error that another process reported, as an exception of this one."""
    if code == InvalidRequest.code:
        return InvalidRequest(problems or [Problem("request", message)])
    return ERRORS.get(code, WorkerError)(message)
