"""Errors and warnings by kind. Every message has what was got, what is expected and what to do."""

from __future__ import annotations


class JointNetError(ValueError):
    """Base of every error this package raises for its user's input."""


class ShapeError(JointNetError):
    """A tensor or a picture has a size the model cannot take."""


class RangeError(JointNetError):
    """A value leaves the range it is stated in."""


class UnsupportedBaseError(JointNetError):
    """A base network has parts that the joint network does not carry over."""


class ModelFolderError(JointNetError):
    """A model folder is missing, incomplete or of another kind."""


class OutputError(JointNetError):
    """A result cannot be written where it was asked for."""


class FolderHeldError(OutputError):
    """Another process is writing to a folder."""


class RunFolderError(JointNetError):
    """A run folder holds another run, or a state that cannot be read."""


class DataFolderError(JointNetError):
    """A data folder is missing, empty or incomplete."""


class BadSampleError(JointNetError):
    """A sample of a data set cannot be used; the others can.

    Attributes:
        reason: a short kind ("truncated picture", "no caption"), by which such samples are counted.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadSampleError], tuple[str, str]]:
        return BadSampleError, (str(self), self.reason)  # workers of a loader send it to their parent


class LabelerError(JointNetError):
    """A labeler failed by itself: out of memory, or an error of a user's own code."""


class DivergenceError(JointNetError):
    """Training left the numbers that can be counted with."""


class HubError(JointNetError):
    """The Hugging Face hub refused something, or cannot be reached."""


class InputFileError(JointNetError):
    """A picture, map or mask cannot be read, or holds nothing that could be used."""


class MissingPackageError(JointNetError):
    """Something asked for needs a package that is not installed."""


class NonFiniteError(JointNetError):
    """A run ended in values that are NaN or infinite."""


class UnknownNameError(JointNetError):
    """A modality, recipe or scheduler that is not registered."""


class JointNetWarning(UserWarning):
    """Base of every warning this package gives; the command line shows each in one line."""


class PromptTruncatedWarning(JointNetWarning):
    """A prompt is longer than the text encoder takes; the end was cut."""


class UnknownWordsWarning(JointNetWarning):
    """A prompt has words a small model never saw."""


class EightBitWarning(JointNetWarning):
    """A depth map was stored in 8 bits."""


class DepthUnitWarning(JointNetWarning):
    """A depth map looks as if it were in another unit than the one it is read in."""


class DepthHolesWarning(JointNetWarning):
    """Many pixels of a sensor's depth map have no value."""


class ColourProfileWarning(JointNetWarning):
    """A picture's colour profile cannot be used."""


class DataFolderWarning(JointNetWarning):
    """A data folder holds files that are no part of the data."""


class DamagedFileWarning(JointNetWarning):
    """A file that can be computed again is damaged."""
