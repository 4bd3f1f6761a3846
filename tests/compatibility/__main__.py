"""Holds a conversation of several turns with each of the given model servers, through a real Palaver server.

    python -m tests.compatibility litellm=VENV llama-cpp=VENV llama-cpp-python=VENV ollama=VENV

VENV is the virtual environment of the model server. Prints each check, and exits at the first failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import palaver
from tests.support.ports import free_port

HERE = Path(__file__).parent
START_TIMEOUT = 120.0
QUESTIONS = ("What is a palaver?", "Who takes part in it?", "And how long does it last?")


@dataclass(frozen=True)
class ModelServer:
    """A model server of a third party."""

    name: str
    key: str
    health: str
    command: Callable[[Path, int, Path], list[str]]
    """Returns its command line for a virtual environment, a port and a folder for its files."""
    obeys_max_tokens: bool
    """True if its model ends at `max_tokens`. A mocked reply does not."""
    reports_usage: bool
    """True if it supports `stream_options.include_usage`."""
    unknown_model: tuple[str, ...]
    """The valid reasons for a model that it does not know. Empty if it accepts any name."""
    load_model: Callable[[Path, int, Path], None] = lambda *_: None
    """Gives the running server its model, unless it loads it at the start. Takes what `command` takes."""


def _litellm(venv: Path, port: int, _folder: Path) -> list[str]:
    config = str(HERE / "litellm.yaml")
    return [str(venv / "bin/litellm"), "--config", config, "--host", "127.0.0.1", "--port", str(port)]


def _tiny_model(venv: Path, folder: Path) -> str:
    model = str(folder / "tiny.gguf")
    subprocess.run([str(venv / "bin/python"), str(HERE / "tiny_model.py"), model], check=True)
    return model


def _llama_cpp(venv: Path, port: int, folder: Path) -> list[str]:
    return [str(venv / "bin/llama-server"), "--model", _tiny_model(venv, folder), "--alias", "palaver",
            "--ctx-size", "4096", "--host", "127.0.0.1", "--port", str(port), "--api-key", "none"]  # fmt: skip


def _llama_cpp_python(venv: Path, port: int, folder: Path) -> list[str]:
    return [str(venv / "bin/python"), "-m", "llama_cpp.server", "--model", _tiny_model(venv, folder),
            "--model_alias", "palaver", "--n_ctx", "4096", "--chat_format", "chatml",
            "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip


def _ollama(venv: Path, port: int, folder: Path) -> list[str]:
    return ["env", f"OLLAMA_HOST=127.0.0.1:{port}", f"OLLAMA_MODELS={folder / 'models'}", f"HOME={folder}",
            str(venv / "bin/ollama"), "serve"]  # fmt: skip


def _create_in_ollama(venv: Path, port: int, folder: Path) -> None:
    template = "{{ range .Messages }}{{ .Role }}: {{ .Content }}\n{{ end }}assistant: "
    recipe = folder / "Modelfile"
    recipe.write_text(f'FROM {_tiny_model(venv, folder)}\nTEMPLATE """{template}"""\n')
    *program, _ = _ollama(venv, port, folder)
    subprocess.run([*program, "create", "palaver", "--file", str(recipe)], check=True, capture_output=True)


MODEL_SERVERS = {
    # It refuses an unknown model with a general status and without a code.
    "litellm": ModelServer(
        "LiteLLM's proxy", "sk-compatibility", "/health/liveliness", _litellm,
        obeys_max_tokens=False, reports_usage=True, unknown_model=("MODEL_NOT_FOUND", "MODEL_REJECTED_REQUEST"),
    ),
    "llama-cpp": ModelServer(
        "llama.cpp's server", "none", "/health", _llama_cpp,
        obeys_max_tokens=True, reports_usage=True, unknown_model=(),
    ),
    "llama-cpp-python": ModelServer(
        "the server of llama-cpp-python", "none", "/v1/models", _llama_cpp_python,
        obeys_max_tokens=True, reports_usage=False, unknown_model=(),
    ),
    "ollama": ModelServer(
        "Ollama", "none", "/", _ollama,
        obeys_max_tokens=True, reports_usage=True, unknown_model=("MODEL_NOT_FOUND",), load_model=_create_in_ollama,
    ),
}  # fmt: skip


@contextmanager
def process(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """Runs a program for the time of the block."""
    with log.open("w") as errors:
        started = subprocess.Popen(
            command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            yield started
        finally:
            started.terminate()
            started.wait()


def wait_until_healthy(url: str, key: str) -> None:
    """Polls the server until it answers, because it has no other way to report that it is ready."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    deadline = time.monotonic() + START_TIMEOUT
    while not _answers(request):
        if time.monotonic() > deadline:
            raise SystemExit(f"  FAILED  {url} does not answer")
        time.sleep(0.5)


def _answers(request: urllib.request.Request) -> bool:
    try:
        urllib.request.urlopen(request, timeout=5).close()
    except (urllib.error.URLError, ConnectionError):
        return False
    return True


def check(condition: bool, claim: str) -> None:
    """Prints a claim that holds, or ends the run with one that does not."""
    if not condition:
        raise SystemExit(f"  FAILED  {claim}")
    print(f"  ok      {claim}")


def conversation(client: palaver.Client, server: ModelServer) -> None:
    """Holds a conversation and checks what its caller sees."""
    client.create_assistant("a", instructions="Answer in one sentence.")
    prompt_tokens = []
    for question in QUESTIONS:
        reply = client.post_user_query("a", question, chat_model="palaver", max_tokens=40)
        pieces = list(reply.text)
        completed = reply.completed
        usage = completed.usage
        prompt_tokens.append(usage.prompt_tokens)
        print(f"          {len(pieces)} pieces, {usage.prompt_tokens} + {usage.completion_tokens} tokens, "
              f"{completed.finish_reason.name}, {completed.chat_model}: {''.join(pieces)[:60]!r}")  # fmt: skip
        check(completed.messages[-1].content == "".join(pieces) != "", "the reply is stored as it was streamed")
        check(len(pieces) > 1, "it arrived in pieces")
        check(
            completed.finish_reason in (palaver.FinishReason.STOP, palaver.FinishReason.LENGTH),
            "it has a finish reason",
        )
        if server.reports_usage:
            check(
                usage.prompt_tokens > 0 < usage.completion_tokens
                and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens,
                "the usage adds up",
            )
        else:
            check(usage == palaver.Usage(model_calls=1), "a usage that is not reported is zero")
    if server.reports_usage:
        check(prompt_tokens == sorted(set(prompt_tokens)), f"the prompt grows with the history: {prompt_tokens}")
    if server.obeys_max_tokens:
        cut = client.post_user_query_unary("a", "Go on.", chat_model="palaver", max_tokens=3)
        check(cut.finish_reason is palaver.FinishReason.LENGTH, "max_tokens ends a reply with LENGTH")
    if server.unknown_model:
        try:
            client.post_user_query_unary("a", "Hello", chat_model="nonsense")
        except palaver.InvalidArgumentError as error:
            check(error.reason in server.unknown_model, f"an unknown model is {error.reason}: {error.message}")
        else:
            check(False, "an unknown model is refused")


def run(name: str, venv: Path) -> None:
    """Starts a model server and Palaver, and holds the conversation."""
    model_server, port = MODEL_SERVERS[name], free_port()
    print(f"{model_server.name}:")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(process(model_server.command(venv, port, folder), {}, folder / f"{name}.log"))
        base = f"http://127.0.0.1:{port}"
        wait_until_healthy(base + model_server.health, model_server.key)
        model_server.load_model(venv, port, folder)
        command = [sys.executable, "-m", "palaver_server", "--listen", "127.0.0.1:0", "--data-dir", str(folder)]
        environment = {"OPENAI_API_KEY": model_server.key, "OPENAI_BASE_URL": f"{base}/v1"}
        server = stack.enter_context(process(command, environment, folder / "palaver.log"))
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        conversation(stack.enter_context(palaver.Client(address, timeout=120)), model_server)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        name, _, folder = argument.partition("=")
        run(name, Path(folder))
