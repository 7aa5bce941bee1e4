"""The one error of the codecs: bytes that are not what a dialect says."""

__all__ = ["CodecError"]


class CodecError(ValueError):
    """A body that is no packet of its dialect. Carries no payload, so it may be logged."""
