"""The page of metrics for Prometheus. With several workers, the supervisor serves one page for all of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from prometheus_client import CollectorRegistry, Metric, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

ANSWER_TIMEOUT = 2.0
"""Seconds that a worker has to answer. Its previous page is used if it takes longer, for instance while it stops."""

LEAST = ("palaver_ready",)
"""The metrics of which the page has the least value of all workers. All others are added up."""


class PageError(Exception):
    """The page can't be served. The text says why."""


@contextmanager
def serving_page(listen: str, registry: CollectorRegistry) -> Iterator[int]:
    """Serves the metrics of a registry at HOST:PORT in threads, and yields the port. Raises `PageError`."""
    host, _, port = listen.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        raise PageError(f"can't listen on {listen}: {error.strerror or error}") from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer_scrapes(registry: CollectorRegistry, requests: Connection) -> None:
    """Sends the page of a worker to the supervisor whenever it asks, in a thread, until the supervisor is gone."""

    def answer() -> None:
        with suppress(EOFError, OSError):
            while True:
                number = requests.recv()
                requests.send((number, generate_latest(registry).decode()))

    threading.Thread(target=answer, name="metrics", daemon=True).start()


@dataclass(slots=True)
class _WorkerPage:
    """The latest page of a worker."""

    worker: Connection
    number: int = 0
    text: str = ""

    def ask(self) -> None:
        self.number += 1
        try:
            self.worker.send(self.number)
        except OSError:
            return  # it has ended, and the others will

    def receive(self) -> None:
        try:
            while self.worker.poll(ANSWER_TIMEOUT):
                number, self.text = self.worker.recv()
                if number == self.number:
                    return
        except (EOFError, OSError):
            return


@dataclass(slots=True)
class _Family:
    """A metric of all workers."""

    metric: Metric
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = field(default_factory=dict)

    def add(self, metric: Metric) -> None:
        for sample in metric.samples:
            key = (sample.name, tuple(sample.labels.items()))
            known = self.values.get(key)
            if known is None:
                self.values[key] = sample.value
            else:
                self.values[key] = min(known, sample.value) if metric.name in LEAST else known + sample.value

    def whole(self) -> Metric:
        whole = Metric(self.metric.name, self.metric.documentation, self.metric.type)
        for (name, labels), value in self.values.items():
            whole.add_sample(name, dict(labels), value)
        return whole


class PagesOfWorkers(Collector):
    """Collects the metrics of all workers, added up."""

    def __init__(self, workers: Sequence[Connection]) -> None:
        """Takes the connections to the workers' ends of `answer_scrapes`."""
        self._pages = [_WorkerPage(worker) for worker in workers]
        self._lock = threading.Lock()

    def collect(self) -> Iterable[Metric]:
        """Asks all workers for their pages and yields the metrics."""
        with self._lock:
            for page in self._pages:
                page.ask()
            for page in self._pages:
                page.receive()
            texts = [page.text for page in self._pages]
        families: dict[str, _Family] = {}
        for text in texts:
            for metric in text_string_to_metric_families(text):
                families.setdefault(metric.name, _Family(metric)).add(metric)
        for family in families.values():
            yield family.whole()
