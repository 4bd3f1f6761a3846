"""Skills in Python: functions that a model may call, served to Palaver servers over gRPC.

    from palaver.skills import serve, skill

    @skill
    def add(a: float, b: float) -> float:
        '''Adds two numbers exactly.'''
        return a + b

    serve(add, listen="127.0.0.1:50061")

It needs the extra `palaver[skills]`. `skill` tells what a function must be like, and `SkillHost` what becomes of a call
that is repeated. What a model reads of a call that goes wrong:

- what a `SkillError` says, and what is wrong with the arguments, if they break the schema of the skill;
- "the skill failed" for any other exception, which is logged as a whole by the logger `palaver.skills`;
- that the result is too long, if it has more than `MAX_RESULT_BYTES` bytes of UTF-8.
"""

try:  # the libraries are imported here only to say what to do when one is missing
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
