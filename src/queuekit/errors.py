"""Every error that queuekit raises, in one tree.

    QueuekitError
    ├── ConfigError             a setting, a declaration or an installation that cannot work
    ├── EnqueueError            a job could not be handed over; `recorded` says whether it exists
    │   ├── BulkEnqueueError    ... after others that were; says how many, and which are in doubt
    │   ├── DuplicateJob        ... since another one holds its key, and on_duplicate="reject"
    │   └── JobConflict         ... since its id is that of a job that asks for something else
    ├── PayloadError            an argument or a result that does not fit its type, or cannot be encoded
    ├── StepError               a step that cannot be run as it is called
    │   ├── StepChanged         ... since an earlier attempt had another one in its place
    │   └── StepUnknown         ... since it began before, and nobody knows whether it took effect
    ├── BlobAway                (also a ConnectionError) the blob hook could not keep or give a step's result
    ├── JobNotFound             no record of that id (never enqueued, or expired)
    ├── JobNotReady             (also a TimeoutError) the result is not there yet
    ├── JobFailed               the job ended as failed; carries its record
    ├── JobCancelled            the job was cancelled, or expired before it started
    ├── StoreAway               (also a ConnectionError; queuekit.store) the record could not be asked
    └── BrokerAway              (also a ConnectionError; queuekit.adapters) among adapters: enqueue() does not raise it

    BaseException
    ├── SoftTimeout             raised once inside a task whose soft_timeout has passed
    └── StaleAttempt            raised inside a task whose attempt no longer holds its fence

The last two derive from BaseException, so that an `except Exception` in a model SDK cannot swallow them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuekit.handle import Job
    from queuekit.job import JobInfo
    from queuekit.retry import Category

__all__ = [
    "BlobAway",
    "BulkEnqueueError",
    "ConfigError",
    "DuplicateJob",
    "EnqueueError",
    "JobCancelled",
    "JobConflict",
    "JobFailed",
    "JobNotFound",
    "JobNotReady",
    "PayloadError",
    "QueuekitError",
    "SoftTimeout",
    "StaleAttempt",
    "StepChanged",
    "StepError",
    "StepUnknown",
]


class QueuekitError(Exception):
    """The base of all of queuekit's errors, except for SoftTimeout and StaleAttempt."""

    def __reduce__(self) -> tuple[Any, ...]:
        # An error that cannot be unpickled breaks a whole pool of processes: some have more to them than their args.
        return _again, (type(self), self.args), self.__dict__


def _again(cls: type[QueuekitError], args: tuple[Any, ...]) -> QueuekitError:
    error = cls.__new__(cls, *args)
    error.args = args  # an OSError with an __init__ of its own does not take them from __new__
    return error


class ConfigError(QueuekitError):
    """A setting, a declaration or an installation cannot work. It names the field, the value and the remedy."""


class EnqueueError(QueuekitError):
    """A job could not be handed over.

    Attributes:
        recorded: True: the store has the job and it will run. False: it does not have it. None: unknown, because
            the store did not answer after the request was sent. Enqueue again with `options(id=job_id)`: if the
            job exists by then, nothing is doubled.
        job_id: the id that the job has, or would have had.
    """

    def __init__(self, message: str, *, recorded: bool | None, job_id: str) -> None:
        super().__init__(message)
        self.recorded = recorded
        self.job_id = job_id


class BulkEnqueueError(EnqueueError):
    """enqueue_many() or enqueue_batches() broke off after jobs that are recorded. `recorded` and `job_id` are of the
    job, or the batch, at which it did; `__cause__` says why.

    Attributes:
        accepted: how many are recorded, and will run: the first so many of the calls.
        in_doubt: the ids of the batch of which it is not known whether it was recorded (of all of it or of none).
        jobs: the jobs that are recorded, where enqueue_many() was to give them.
    """

    def __init__(
        self, message: str, *, recorded: bool | None, job_id: str, accepted: int, in_doubt: Sequence[str]
    ) -> None:
        super().__init__(message, recorded=recorded, job_id=job_id)
        self.accepted = accepted
        self.in_doubt = tuple(in_doubt)
        self.jobs: list[Job[Any]] = []

    @classmethod
    def of(cls, error: EnqueueError | PayloadError, accepted: int, rest: Sequence[str]) -> BulkEnqueueError:
        """`rest`: the ids of the batch that it broke off in, but for those that are recorded."""
        recorded = error.recorded if isinstance(error, EnqueueError) else False
        in_doubt = rest if recorded is None else ()
        known = f"it is not known whether the next {len(in_doubt)} are" if in_doubt else "the next one is not"
        return cls(
            f"the first {accepted} jobs are recorded, and will run; {known}: {error}",
            recorded=recorded,
            job_id=error.job_id if isinstance(error, EnqueueError) else "",
            accepted=accepted,
            in_doubt=in_doubt,
        )


class DuplicateJob(EnqueueError):
    """Another job holds the key, and was to be no answer: options(key=, on_duplicate="reject").

    Attributes:
        job_id: that of the job that holds it. `recorded` is False: the new one is not.
    """


class JobConflict(EnqueueError):
    """The id is that of a job that asks for something else: another task, other arguments, another queue. Asking again
    changes nothing.

    Attributes:
        job_id: that of the job that is there, and stays as it is. `recorded` is False: the new one is not.
    """


class PayloadError(QueuekitError):
    """An argument or a result does not fit its declared type, cannot be encoded as JSON, or is too large.

    Attributes:
        parameter: the name of the parameter at fault, "return" for a result, or None where no single one is.
    """

    def __init__(self, message: str, *, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class StepError(QueuekitError):
    """A step cannot be run as it is called. It ends the job, whatever its policy says: to try again would not help."""


class StepChanged(StepError):
    """An earlier attempt of the job had another step in this place, or a result of another type: the code has changed
    since, or does not call its steps in the same order each time."""


class StepUnknown(StepError):
    """The step (with on_unknown="fail") began in an earlier attempt, and nobody knows whether it took effect. Catch it
    to find out, and to go on."""


class BlobAway(QueuekitError, ConnectionError):
    """The blob hook failed, also when it was called again: a step's result could not be kept, and is lost, or what an
    earlier attempt has kept could not be read now. `__cause__` is what the hook raised. The policy says what follows,
    as after any lost connection; a cause that is a refusal (401, 403) is one here too."""


class JobNotFound(QueuekitError):
    """The store has no record of that id, or the result of that job has expired."""


class JobNotReady(QueuekitError, TimeoutError):
    """The job has not ended within the time that the caller was ready to wait."""


class JobFailed(QueuekitError):
    """The job ended as failed.

    Attributes:
        info: the job's record, with every attempt.
        category: what kind of failure ended it.
        error_type: the qualified name of the last error's class.
        error_message: the last error's text.
    """

    def __init__(self, message: str, *, info: JobInfo, category: Category, error_type: str, error_message: str) -> None:
        super().__init__(message)
        self.info = info
        self.category = category
        self.error_type = error_type
        self.error_message = error_message


class JobCancelled(QueuekitError):
    """The job was cancelled, or was not started before it expired."""


class SoftTimeout(BaseException):
    """Raised once inside a task when its soft_timeout has passed: finish up before the hard limit."""


class StaleAttempt(BaseException):
    """Raised inside a task whose attempt was ended by somebody else: nothing that it writes is accepted any more."""
