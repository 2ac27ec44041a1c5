"""The metrics that engines keep themselves, such as vLLM's, passed on under their own names."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from control_plane.errors import TriadError
from control_plane.models.catalog import Model, Models
from control_plane.triton import codec
from control_plane.triton.client import TritonClient, ask

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 2.0


async def engine_metrics(client: TritonClient, catalog: Models) -> CollectorRegistry:
    """Asked for now, of all models that have some; one that does not answer in time is left out."""
    asked = [model for model in catalog if model.ready and model.facts.metrics]
    texts = await asyncio.gather(*(_ask(client, model) for model in asked))
    registry = CollectorRegistry()
    registry.register(_Merged(texts))
    return registry


async def _ask(client: TritonClient, model: Model) -> str:
    try:
        text = await ask(client, codec.metrics_request(model.name), timeout=TIMEOUT_SECONDS)
    except TriadError as error:
        logger.warning("model %s gives no metrics: %s", model.served_name, error)
        return ""
    return text.decode()


class _Merged(Collector):
    """One family a name, with the samples of all engines: their labels tell the models apart."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._families: dict[str, Metric] = {}
        for text in texts:
            for family in text_string_to_metric_families(text):
                known = self._families.setdefault(family.name, family)
                if known is not family:
                    known.samples.extend(family.samples)

    def collect(self) -> Iterable[Metric]:
        return self._families.values()
