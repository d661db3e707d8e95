"""What can go wrong, in the words of the domain; knows nothing of HTTP."""

from __future__ import annotations


class ChatError(Exception):
    """A failure that the client is told of.

    `code` is one of the keys of `shapes.ERRORS`, where it meets its HTTP status. `param` names
    the field, header or query parameter at fault. `retry_after` is the value of a Retry-After header
    (seconds or an HTTP date). `extra` goes beside the code in the error object.
    """

    def __init__(
        self,
        code: str,
        message: str,
        param: str | None = None,
        *,
        retry_after: str | None = None,
        extra: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.extra = extra or {}


class TooLong(ChatError):
    """The LLM could not take so long a conversation: asking again with less of it may help.

    Its code is what the client is told when there is nothing left to drop.
    """
