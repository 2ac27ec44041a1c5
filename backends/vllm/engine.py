"""The engine over vLLM's `AsyncLLM`.

It runs on an event loop in a thread of its own. vLLM schedules and computes in further processes;
when one of them crashes, all requests fail, and so does `describe`: the model is then loaded again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import aclosing
from functools import partial
from typing import Any

import uvloop
from vllm import SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from backends.contract.errors import EngineDead, EngineError, Overloaded, ShuttingDown
from backends.contract.structured import StructuredOutput
from backends.engine import Engine, EngineRequest
from backends.guidance.checked import CheckedGrammars
from backends.guidance.limits import TRIAL
from backends.guidance.lru_cache import LRUCache
from backends.vllm.admission import Admission
from backends.vllm.arguments import EngineArguments
from backends.vllm.facts import static_facts
from backends.vllm.gauges import Gauges, exposition, gpu_memory
from backends.vllm.reaper import start_reaper
from backends.vllm.sampling import (
    GUIDANCE,
    check_resumable,
    json_options,
    refusal,
    sampling_params,
    tokens,
)

logger = logging.getLogger(__name__)

DIED = "the engine's process has died"
MAX_CACHED_GRAMMARS = 64
"""The most recently used grammars, which are not checked again."""
CANCEL_SECONDS = 0.02
"""The interval in which running requests are checked for cancellation."""


class VllmEngine(Engine):
    """The engine of vLLM models, without gradients and profiles."""

    def __init__(self, arguments: EngineArguments, tokenizer_json: Callable[[], str]) -> None:
        """Load a model and start to serve it.

        ``tokenizer_json``: returns the tokenizer in the format of the ``tokenizers`` library, or
        raises ValueError if it cannot. Raises what vLLM raises if the model cannot be loaded.
        """
        self._gauges = Gauges()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        self._adapters = {
            name: LoRARequest(name, number, path)
            for number, (name, path) in enumerate(arguments.adapters.items(), 1)
        }
        self.adapters = tuple(self._adapters)
        self._active: dict[EngineRequest, asyncio.Task[None]] = {}
        self._numbers = 0
        self._closing = False
        try:
            self._llm: AsyncLLM = self._run(self._start(arguments.engine))
        except BaseException:
            self._stop_loop()
            raise
        self._reaper = start_reaper()
        running = self._llm.vllm_config.scheduler_config.max_num_seqs
        self._admission = Admission(running, arguments.max_queue_size)
        config = self._llm.model_config
        self.context_length: int = config.max_model_len
        self.vocab_size: int = config.get_vocab_size()
        backend = self._llm.vllm_config.structured_outputs_config.backend
        self._uses_guidance = backend == GUIDANCE
        self._preparing: set[EngineRequest] = set()  # their grammars are being checked
        # The grammars that were checked, for llguidance; "": vLLM compiles its own.
        self._checked: LRUCache[StructuredOutput, str] = LRUCache(MAX_CACHED_GRAMMARS)
        self._lock = threading.Lock()
        self._grammars = CheckedGrammars(lambda: self._trial_options(tokenizer_json))
        self._facts = static_facts(self._llm.vllm_config)

    async def _start(self, arguments: Any) -> AsyncLLM:  # noqa: ANN401
        llm = AsyncLLM.from_engine_args(arguments, stat_loggers=[self._gauges.logger])
        self._sweeper = asyncio.create_task(self._sweep())
        return llm

    def _trial_options(self, tokenizer_json: Callable[[], str]) -> dict[str, Any]:
        """Return the options of the process that checks grammars."""
        return {
            "tokenizer_json": tokenizer_json() if self._uses_guidance else "",
            "vocab_size": max(self.vocab_size, self._llm.model_config.get_vocab_size()),
            "eos_token_ids": [],
            "context_length": self.context_length,
            "options": dict(json_options()),
            "limits": None,  # vLLM sets none
            "forces": False,
            "compiles": self._uses_guidance,
            **TRIAL,
        }

    def submit(self, request: EngineRequest) -> None:
        """Queue a request. Raises `InvalidField`, `Overloaded`, `ShuttingDown`."""
        if self._closing:
            raise ShuttingDown("the model is being unloaded")
        guided = request.sampling.guided
        if guided is None:
            return self._start_soon(request, None)
        if request.output_ids:
            check_resumable(request.sampling)
        if (checked := self._checked.get(guided)) is not None:
            return self._start_soon(request, checked or None)
        with self._lock:
            grammar = self._grammars.prepare(request, partial(self._checked.get, guided), str)
            self._preparing.add(request)
        grammar.add_done_callback(partial(self._on_prepared, request))

    def _start_soon(self, request: EngineRequest, grammar: str | None) -> None:
        params, name = sampling_params(request, grammar), request.sampling.lora_name
        adapter = self._adapters[name] if name is not None else None
        self._loop.call_soon_threadsafe(self._begin, request, params, adapter)

    def _on_prepared(self, request: EngineRequest, grammar: Future[str]) -> None:
        """Start a request whose grammar has been checked. Called by a thread that checks them."""
        with self._lock:
            if request not in self._preparing:
                return  # the engine was closed, and has failed the request
            self._preparing.remove(request)
        guided = request.sampling.guided
        assert guided is not None
        try:
            checked = grammar.result()
            self._checked.put(guided, checked)
            self._start_soon(request, checked or None)
        except Exception as error:
            if not request.cancelled:
                request.sink.fail(self._translated(error, request))

    def describe(self) -> dict[str, Any]:
        """Return static facts and gauges. Raises `EngineDead` if a process of vLLM has crashed."""
        if self._llm.errored:
            raise EngineDead(DIED)
        return self._facts | self._gauges.now() | {"gpus": gpu_memory()}

    def metrics(self) -> str:
        """Return vLLM's metrics in Prometheus' text format."""
        return exposition()

    def close(self) -> None:
        """Fail all unfinished requests with `ShuttingDown`, and stop vLLM's processes."""
        self._closing = True
        with self._lock:
            preparing, self._preparing = self._preparing, set()
        for request in preparing:
            request.sink.fail(ShuttingDown("the model is being unloaded"))
        self._grammars.close()
        self._run(self._end_all())
        self._llm.shutdown()
        self._stop_loop()
        self._reaper.terminate()
        self._reaper.wait()

    def _run(self, work: Any) -> Any:  # noqa: ANN401
        """Run a coroutine on the event loop, and return its result to this thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # --- the event loop -------------------------------------------------------------------------

    def _begin(
        self, request: EngineRequest, params: SamplingParams, adapter: LoRARequest | None
    ) -> None:
        try:
            priority = self._admission.enter(request)
        except Overloaded as error:
            request.sink.fail(error)
            return
        task = self._loop.create_task(self._serve(request, params, adapter, priority))
        self._active[request] = task
        task.add_done_callback(lambda _: self._active.pop(request, None))

    async def _serve(
        self,
        request: EngineRequest,
        params: SamplingParams,
        adapter: LoRARequest | None,
        priority: int,
    ) -> None:
        """Serve one request until its end. Cancelling this coroutine aborts it in vLLM."""
        self._numbers += 1
        request.started = True
        count = 0
        prompt = TokensPrompt(prompt_token_ids=[*request.prompt_ids, *request.output_ids])
        if request.sampling.cache_salt:
            prompt["cache_salt"] = request.sampling.cache_salt
        try:
            outputs = self._llm.generate(
                prompt, params, str(self._numbers), lora_request=adapter, priority=priority
            )
            async with aclosing(outputs):
                async for output in outputs:
                    if request.cancelled:
                        return
                    if not count:
                        self._note_first(request, output)
                    count += len(output.outputs[0].token_ids)
                    for token, finish_reason in tokens(request, output):
                        request.sink.put(token, finish_reason)
        except Exception as error:
            request.sink.fail(self._translated(error, request))
        finally:
            self._admission.ended(request, count)

    def _note_first(self, request: EngineRequest, output: RequestOutput) -> None:
        """Take note of the first token, and of how long the request has waited before."""
        self._admission.begun(request)
        request.deadline = request.ends_by
        if (times := output.metrics) is not None:
            request.queue_wait = max(0.0, times.scheduled_ts - times.queued_ts)

    def _translated(self, error: Exception, request: EngineRequest) -> EngineError:
        """Return the engine's error for an error of vLLM."""
        if isinstance(error, EngineError):
            return error
        if isinstance(error, EngineDeadError):
            return EngineDead(DIED)
        if (status := getattr(error, "http_status", None)) is not None and int(status) == 503:
            return Overloaded(str(error))
        if isinstance(error, VLLMClientError | ValueError):
            return refusal(error, request.sampling)
        logger.error("a request failed", exc_info=error)
        return EngineError(f"generation failed: {type(error).__name__}: {error}")

    async def _sweep(self) -> None:
        """Abort requests that are late, and cancelled ones that get no tokens: they wait, or their
        prompts are computed."""
        while True:
            await asyncio.sleep(CANCEL_SECONDS)
            now = time.monotonic()
            for request, task in list(self._active.items()):
                late = request.late(now)
                if late is not None and not request.cancelled:
                    request.sink.fail(late)
                if late is not None or request.cancelled:
                    del self._active[
                        request
                    ]  # once only: a second time would cancel the task's own cleanup
                    task.cancel()

    async def _end_all(self) -> None:
        self._sweeper.cancel()
        for request, task in list(self._active.items()):
            task.cancel()
            request.sink.fail(ShuttingDown("the model is being unloaded"))
        await asyncio.gather(*self._active.values(), return_exceptions=True)
