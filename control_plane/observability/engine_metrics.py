"""The metrics that engines keep themselves, such as vLLM's, passed on under their own names."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from control_plane.errors import TriadError
from control_plane.inference.client import ModelClient, ask
from control_plane.inference.requests import ReadMetrics
from control_plane.models.catalog import Model, Models

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 2.0


async def engine_metrics(client: ModelClient, catalog: Models) -> CollectorRegistry:
    """Ask all models that keep metrics for them; one that does not answer in time is left out."""
    asked = [model for model in catalog if model.ready and model.facts.metrics]
    texts = await asyncio.gather(*(_ask(client, model) for model in asked))
    registry = CollectorRegistry()
    registry.register(_Merged(texts))
    return registry


async def _ask(client: ModelClient, model: Model) -> str:
    try:
        return await ask(client, ReadMetrics(model.name, "metrics"), timeout=TIMEOUT_SECONDS)
    except TriadError as error:
        logger.warning("model %s gives no metrics: %s", model.served_name, error)
        return ""


class _Merged(Collector):
    """The engines' families by name, with the samples of all engines: their labels tell the
    models apart."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._families: dict[str, Metric] = {}
        for text in texts:
            for family in text_string_to_metric_families(text):
                known = self._families.setdefault(family.name, family)
                if known is not family:
                    known.samples.extend(family.samples)

    def collect(self) -> Iterable[Metric]:
        return self._families.values()
