"""The page of metrics that a server serves for Prometheus, read by the parser of Prometheus's library."""

from __future__ import annotations

import asyncio
import urllib.request
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Page:
    """A page of metrics."""

    text: str
    samples: tuple[Any, ...]

    def value(self, name: str, **labels: str) -> float:
        """Returns the sum of all samples with a name and labels; 0 if there are none."""
        return sum(
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labels(self, name: str) -> set[str]:
        """Returns the names of the labels of a metric's samples."""
        return {label for sample in self.samples if sample.name == name for label in sample.labels}


async def scrape(address: str) -> Page:
    """Reads the page of HOST:PORT."""

    def read() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as response:
            return response.read().decode()

    text = await asyncio.to_thread(read)
    return Page(text, tuple(sample for family in text_string_to_metric_families(text) for sample in family.samples))
