"""Settings that are accepted but that nothing would act on.

When a feature arrives, its row in `NOT_YET` goes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from control_plane.settings.problems import SettingsError
from control_plane.settings.schema import ServingSettings, Settings
from control_plane.settings.text import shorten


@dataclass(frozen=True, slots=True)
class NotYet:
    """A feature that does not exist yet, and how to tell that the settings ask for it."""

    key: str
    feature: str
    asked_for: Callable[[ServingSettings], bool]

    def __str__(self) -> str:
        return f"serving.{self.key}: {self.feature} is not available in this release"


NOT_YET = (
    NotYet("workers", "more than 1 worker", lambda s: s.workers > 1),
    NotYet("batching.enabled", "request batching", lambda s: s.batching.enabled),
    NotYet(
        "triton.metrics_endpoints",
        "reading the metrics of Triton servers",
        lambda s: bool(s.triton.metrics_endpoints),
    ),
)


def unsupported(settings: Settings) -> list[str]:
    """A sentence for each setting that asks for something that does not exist, or not there."""
    serving = settings.serving
    missing = [str(row) for row in NOT_YET if row.asked_for(serving)]
    return [*missing, *_for_the_embedded_server(serving)]


def _for_the_embedded_server(serving: ServingSettings) -> Iterator[str]:
    """What is said of models is put into their configurations when they are loaded, and on servers
    that are named, others have loaded them."""
    balancing = serving.load_balancing
    if serving.triton.endpoints:
        servers = "triton.endpoints"
    elif balancing.enabled and balancing.instances:
        servers = "load_balancing.instances"
    else:
        return
    for section in ("pytorch", "onnx", "vllm"):
        for key in sorted(getattr(serving, section).model_fields_set):
            yield _for_the_servers(f"{section}.{key}", servers)
    if "stream_interval_ms" in serving.model_fields_set:
        yield _for_the_servers("stream_interval_ms", servers)
    if serving.triton.model_repository is not None:
        yield _for_the_servers("triton.model_repository", servers)
    for key, names in (("model", [serving.model]), ("models", serving.models)):
        for name in filter(_is_folder, names):
            yield (
                f"serving.{key}: {shorten(name)} is a folder, which the servers that "
                f"serving.{servers} names do not load; give a model that they have by its name"
            )


def _for_the_servers(key: str, servers: str) -> str:
    return f"serving.{key}: is for the servers that serving.{servers} names to set"


def _is_folder(model: str) -> bool:
    folder = Path(model).expanduser()
    named = model.startswith(("/", "./", "../", "~"))
    return named or any((folder / file).is_file() for file in ("config.json", "config.pbtxt"))


def require_supported(settings: Settings) -> None:
    """Raises: SettingsError with all sentences of `unsupported`."""
    sentences = unsupported(settings)
    if sentences:
        raise SettingsError(sentences)
