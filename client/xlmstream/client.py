"""The asyncio client: the verbs of `sync.Client`, awaited. Belongs to the event loop that makes its first call."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack, overload

import grpc

from xlmstream import messages, outputs, requests
from xlmstream.asyncio_calls import Calls, Gateway, OpenCall, Stream
from xlmstream.asyncio_generation import GenerationVerbs
from xlmstream.channel import DEFAULT_ADDRESS, ChannelOptions, options_with, targets_of
from xlmstream.jobs.asyncio_jobs import AsyncJobs
from xlmstream.keywords import DetokenizeKeywords, Prompt, TokenizeKeywords
from xlmstream.messages import Tokens
from xlmstream.retry import RetryPolicy
from xlmstream.v1.models_pb2 import GetModelRequest, ListModelsRequest, Model, WatchModelsRequest, WatchModelsResponse
from xlmstream.v1.server_pb2 import GetLoadRequest, GetServerInfoRequest, GetServerInfoResponse, ModelLoad


class AsyncClient(GenerationVerbs):
    """Calls the service without blocking the event loop; any number of calls at a time.

    >>> async with AsyncClient("127.0.0.1:50051") as client:
    ...     print((await client.generate("In the beginning", max_new_tokens=20)).text)

    Every failure is raised as a class of `xlmstream.errors`. Calls that fail on the way, or that the service refuses
    with a time to come back, are repeated as `retry` says, all within the call's `timeout_s`.
    """

    def __init__(
        self,
        address: str | Sequence[str] = DEFAULT_ADDRESS,
        *,
        timeout_s: float = 600.0,
        retry: RetryPolicy | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        channel_options: ChannelOptions = (),
    ) -> None:
        """Connects on the first call.

        address: "host:port", where a name may stand for many gateways (all of them are used), or any grpc target; or
            several of those, tried in their order when one does not answer.
        timeout_s: time limit of a call that names none, retries and resumes included.
        credentials: TLS credentials; None speaks plain text.
        channel_options: grpc channel options that are added to the client's own or replace them.
        """
        self._targets = targets_of(address)
        self._credentials = credentials
        self._options = options_with(channel_options)
        self._retry = retry or RetryPolicy()
        self._timeout_s = timeout_s
        self._connected: Calls | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def jobs(self) -> AsyncJobs:
        """Work on very many inputs that goes on by itself."""
        return AsyncJobs(self._calls, self._limit)

    async def close(self) -> None:
        """Leave the streams and close the connections; calls in other tasks end with Cancelled."""
        await self._calls.close()

    @property
    def _calls(self) -> Calls:
        """Made on first use, so that a client can be made outside the event loop it will belong to."""
        if self._connected is None:
            gateways = [Gateway(target, self._credentials, self._options) for target in self._targets]
            self._connected = Calls(gateways, self._retry)
        return self._connected

    @overload
    async def tokenize(  # type: ignore[overload-overlap]
        self, text: Prompt, /, *, timeout_s: float | None = None, **keywords: Unpack[TokenizeKeywords]
    ) -> Tokens: ...
    @overload
    async def tokenize(
        self, texts: Sequence[Prompt], /, *, timeout_s: float | None = None, **keywords: Unpack[TokenizeKeywords]
    ) -> list[Tokens]: ...
    async def tokenize(
        self,
        texts: Prompt | Sequence[Prompt],
        /,
        *,
        timeout_s: float | None = None,
        **keywords: Unpack[TokenizeKeywords],
    ) -> Tokens | list[Tokens]:
        """The tokens of one text or several, each with its place in the text. Raises the first error among them."""
        batch, alone = requests.batch_of(texts)
        request = requests.tokenize_request(batch, keywords)
        response = await self._calls.unary(
            lambda gateway: gateway.inference.Tokenize, request, timeout_s=self._limit(timeout_s)
        )
        tokens = outputs.all_or_raise(outputs.outcomes(response.outputs, messages.tokens_of, len(batch)))
        return tokens[0] if alone else tokens

    @overload
    async def detokenize(
        self, ids: Sequence[int], /, *, timeout_s: float | None = None, **keywords: Unpack[DetokenizeKeywords]
    ) -> str: ...
    @overload
    async def detokenize(
        self, ids: Sequence[Sequence[int]], /, *, timeout_s: float | None = None, **keywords: Unpack[DetokenizeKeywords]
    ) -> list[str]: ...
    async def detokenize(
        self,
        ids: Sequence[int] | Sequence[Sequence[int]],
        /,
        *,
        timeout_s: float | None = None,
        **keywords: Unpack[DetokenizeKeywords],
    ) -> str | list[str]:
        """The text of one list of ids or of several. Raises the first error among them."""
        batch, alone = requests.id_batch_of(ids)
        request = requests.detokenize_request(batch, keywords)
        response = await self._calls.unary(
            lambda gateway: gateway.inference.Detokenize, request, timeout_s=self._limit(timeout_s)
        )
        texts = outputs.all_or_raise(outputs.outcomes(response.outputs, messages.text_of, len(batch)))
        return texts[0] if alone else texts

    async def cancel(
        self, *, request_id: str | None = None, execution_id: str | None = None, timeout_s: float | None = None
    ) -> bool:
        """Stop a request by one of its names. False where it had ended already; RequestNotFound for an unknown one."""
        request = requests.cancel_request(request_id, execution_id)
        response = await self._calls.unary(
            lambda gateway: gateway.inference.CancelRequest, request, timeout_s=self._limit(timeout_s)
        )
        return response.cancelled

    async def models(self, *, timeout_s: float | None = None) -> list[Model]:
        """All served models."""
        response = await self._calls.unary(
            lambda gateway: gateway.models.ListModels, ListModelsRequest(), timeout_s=self._limit(timeout_s)
        )
        return list(response.models)

    async def model(self, name: str, *, timeout_s: float | None = None) -> Model:
        """One served model, by "name" (its newest version) or "name@version"."""
        response = await self._calls.unary(
            lambda gateway: gateway.models.GetModel, GetModelRequest(name=name), timeout_s=self._limit(timeout_s)
        )
        return response.model

    def watch_models(self, *, timeout_s: float | None = None) -> ModelWatch:
        """All served models now and after every change, for as long as the `async with` block lasts."""
        return ModelWatch(self._calls, timeout_s)

    async def server_info(self, *, timeout_s: float | None = None) -> GetServerInfoResponse:
        """Version, limits and name of the gateway that answers."""
        return await self._calls.unary(
            lambda gateway: gateway.server.GetServerInfo, GetServerInfoRequest(), timeout_s=self._limit(timeout_s)
        )

    async def load(self, model: str = "", *, timeout_s: float | None = None) -> list[ModelLoad]:
        """How busy one model is, or each of them."""
        response = await self._calls.unary(
            lambda gateway: gateway.server.GetLoad, GetLoadRequest(model=model), timeout_s=self._limit(timeout_s)
        )
        return list(response.models)

    def _limit(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s


class ModelWatch(Stream[WatchModelsResponse, list[Model]]):
    """The served models, anew after every change; see `AsyncClient.watch_models`."""

    def _open(self, gateway: Gateway, timeout_s: float | None) -> OpenCall[WatchModelsResponse]:
        return gateway.models.WatchModels(WatchModelsRequest(), timeout=timeout_s)

    def _take(self, message: WatchModelsResponse) -> list[Model]:
        return list(message.models)
