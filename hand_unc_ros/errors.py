"""Errors that a user can mend: each message names the thing and the remedy."""


class HandUncError(Exception):
    """Base of every error shown to the user without a traceback."""


def exit_status(error: BaseException | None) -> int:
    """The exit status of a program: 0 done, 1 something failed, 2 a mistake that is explained, 130 Ctrl-C."""
    if error is None:
        return 0
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, HandUncError) else 1


class CalibrationError(HandUncError):
    """A camera calibration or rig file that cannot be used."""


class ImageFormatError(HandUncError):
    """An image whose encoding, size or data cannot be decoded."""


class HandModelError(HandUncError):
    """A hand model file that is missing, malformed or refused."""


class RecordingError(HandUncError):
    """A bag or video that is missing, truncated or of a foreign format."""


class NoHandError(RecordingError):
    """A recording, or the part of it that was asked for, in which no hand is found."""


class ConfigError(HandUncError):
    """A configuration value that is unknown, of the wrong type or out of range."""


class MissingDependencyError(HandUncError):
    """An optional dependency that the requested feature needs."""


class DatasetError(HandUncError):
    """A dataset directory or file that is missing, incomplete or of another version than expected."""


class TrainingError(HandUncError):
    """A training run that cannot begin or go on."""


class ExportError(HandUncError):
    """A network whose exported form does not compute what the network does."""
