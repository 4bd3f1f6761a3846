"""Skills in Python: functions that a model can call, served to Palaver servers over gRPC.

    from palaver.skills import serve, skill

    @skill
    def add(a: float, b: float) -> float:
        '''Adds two numbers exactly.'''
        return a + b

    serve(add, listen="127.0.0.1:50061")

It requires the extra `palaver[skills]`. `skill` documents the requirements for a function, and `SkillHost` the handling
of repeated calls. If a call fails, the model reads one of these errors:

- the message of a `SkillError`;
- the list of invalid arguments, if they do not match the schema of the skill;
- that the result is too long, if it has more than `MAX_RESULT_BYTES` bytes of UTF-8;
- "the skill failed" for any other exception, which the logger `palaver.skills` logs with its traceback.
"""

try:  # imported here only to explain how to install a missing dependency
    import grpc_health.v1  # noqa: F401
    import pydantic  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"palaver.skills is not installed ({error.name} is missing); run: pip install 'palaver[skills]'",
        name=error.name,
    ) from error

from palaver.skills._definition import skill
from palaver.skills._host import SkillHost
from palaver.skills._outcome import MAX_RESULT_BYTES
from palaver.skills._serve import serve, serve_async
from palaver.skills._types import Invocation, SkillError

__all__ = ["MAX_RESULT_BYTES", "Invocation", "SkillError", "SkillHost", "serve", "serve_async", "skill"]
