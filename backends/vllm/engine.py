"""vLLM's `AsyncLLM` as an engine of ours.

An event loop in a thread of its own runs it. vLLM schedules and computes in further processes; when
one of them dies, all requests fail, and so does `describe`: the model is then loaded again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
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
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from backends.contract.errors import EngineDead, EngineError, Overloaded, ShuttingDown
from backends.contract.structured import StructuredOutput
from backends.engine import EngineRequest, GenerationOnly
from backends.guidance.checked import CheckedGrammars
from backends.guidance.limits import TRIAL
from backends.guidance.lru_cache import LRUCache
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
CACHED = 64
"""Grammars that need not be tried again: those used last."""
CANCEL_SECONDS = 0.02
"""Running requests are looked at this often, to see whether they were cancelled."""


class VllmEngine(GenerationOnly):
    """Implements `backends.engine.Engine`, without gradients and profiles.

    Raises what vLLM raises where the model cannot be loaded.
    """

    def __init__(self, arguments: EngineArguments, tokenizer_json: Callable[[], str]) -> None:
        """``tokenizer_json``: gives the tokenizer as the ``tokenizers`` library writes it, and
        raises ValueError where it cannot."""
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
        config = self._llm.model_config
        self.context_length: int = config.max_model_len
        self.vocab_size: int = config.get_vocab_size()
        backend = self._llm.vllm_config.structured_outputs_config.backend
        self._uses_guidance = backend == GUIDANCE
        self._preparing: set[EngineRequest] = set()  # those whose grammars are tried
        self._tried: LRUCache[StructuredOutput, str] = LRUCache(CACHED)
        self._lock = threading.Lock()
        self._grammars = CheckedGrammars(lambda: self._trials(tokenizer_json))
        self._facts = static_facts(self._llm.vllm_config)

    async def _start(self, arguments: Any) -> AsyncLLM:  # noqa: ANN401
        llm = AsyncLLM.from_engine_args(arguments, stat_loggers=[self._gauges.logger])
        self._sweeper = asyncio.create_task(self._sweep())
        return llm

    def _trials(self, tokenizer_json: Callable[[], str]) -> dict[str, Any]:
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
        if self._closing:
            raise ShuttingDown("the model is being unloaded")
        guided = request.sampling.guided
        if guided is None:
            return self._start_soon(request, None)
        if request.output_ids:
            check_resumable(request.sampling)
        if (tried := self._tried.get(guided)) is not None:
            return self._start_soon(request, tried or None)
        with self._lock:
            grammar = self._grammars.prepare(request, partial(self._tried.get, guided), str)
            self._preparing.add(request)
        grammar.add_done_callback(partial(self._prepared, request))

    def _start_soon(self, request: EngineRequest, grammar: str | None) -> None:
        params, name = sampling_params(request, grammar), request.sampling.lora_name
        adapter = self._adapters[name] if name is not None else None
        self._loop.call_soon_threadsafe(self._begin, request, params, adapter)

    def _prepared(self, request: EngineRequest, grammar: Future[str]) -> None:
        """Called from a thread of the grammars'."""
        with self._lock:
            if request not in self._preparing:
                return  # the engine has closed, and ended it
            self._preparing.remove(request)
        guided = request.sampling.guided
        assert guided is not None
        try:
            tried = grammar.result()
            self._tried.put(guided, tried)
            self._start_soon(request, tried or None)
        except Exception as error:
            if not request.cancelled:
                request.sink.fail(self._translated(error, request))

    def describe(self) -> dict[str, Any]:
        if self._llm.errored:
            raise EngineDead(DIED)
        return self._facts | self._gauges.now() | {"gpus": gpu_memory()}

    def metrics(self) -> str:
        return exposition()

    def close(self) -> None:
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
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # --- the event loop -------------------------------------------------------------------------

    def _begin(
        self, request: EngineRequest, params: SamplingParams, adapter: LoRARequest | None
    ) -> None:
        self._numbers += 1
        task = self._loop.create_task(self._serve(request, params, adapter, str(self._numbers)))
        self._active[request] = task
        task.add_done_callback(lambda _: self._active.pop(request, None))

    async def _serve(
        self,
        request: EngineRequest,
        params: SamplingParams,
        adapter: LoRARequest | None,
        request_id: str,
    ) -> None:
        """One request, from its submission to its end. Cancelling this aborts it in vLLM."""
        request.started = True
        prompt = TokensPrompt(prompt_token_ids=[*request.prompt_ids, *request.output_ids])
        if request.sampling.cache_salt:
            prompt["cache_salt"] = request.sampling.cache_salt
        try:
            outputs = self._llm.generate(prompt, params, request_id, lora_request=adapter)
            async with aclosing(outputs):
                async for output in outputs:
                    if request.cancelled:
                        return
                    for token, finish_reason in tokens(request, output):
                        request.sink.put(token, finish_reason)
        except Exception as error:
            request.sink.fail(self._translated(error, request))

    def _translated(self, error: Exception, request: EngineRequest) -> EngineError:
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
        """Abort what was cancelled and gets no tokens: it waits, or its prompt is computed."""
        while True:
            await asyncio.sleep(CANCEL_SECONDS)
            for request, task in list(self._active.items()):
                if request.cancelled:
                    del self._active[request]  # once: a second time would cancel the aborting
                    task.cancel()

    async def _end_all(self) -> None:
        self._sweeper.cancel()
        for request, task in list(self._active.items()):
            task.cancel()
            request.sink.fail(ShuttingDown("the model is being unloaded"))
        await asyncio.gather(*self._active.values(), return_exceptions=True)
