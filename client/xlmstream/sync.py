"""The blocking client. Safe to share between threads; each stream belongs to the thread that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack, overload

import grpc

from xlmstream import messages, outputs, requests
from xlmstream.blocking_calls import Calls, Gateway, OpenCall, Stream
from xlmstream.blocking_generation import GenerationVerbs
from xlmstream.channel import DEFAULT_ADDRESS, ChannelOptions, options_with, targets_of
from xlmstream.jobs.blocking_jobs import Jobs
from xlmstream.keywords import DetokenizeKeywords, Prompt, TokenizeKeywords
from xlmstream.messages import Tokens
from xlmstream.retry import RetryPolicy
from xlmstream.v1.models_pb2 import GetModelRequest, ListModelsRequest, Model, WatchModelsRequest, WatchModelsResponse
from xlmstream.v1.server_pb2 import GetLoadRequest, GetServerInfoRequest, GetServerInfoResponse, ModelLoad


class Client(GenerationVerbs):
    """Calls the service and waits for its answers.

    >>> with Client("127.0.0.1:50051") as client:
    ...     print(client.generate("In the beginning", max_new_tokens=20).text)

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
        options = options_with(channel_options)
        gateways = [Gateway(target, credentials, options) for target in targets_of(address)]
        self._connected = Calls(gateways, retry or RetryPolicy())
        self._timeout_s = timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _calls(self) -> Calls:
        return self._connected

    @property
    def jobs(self) -> Jobs:
        """Work on very many inputs that goes on by itself."""
        return Jobs(self._calls, self._limit)

    def close(self) -> None:
        """Close the connections; calls in other threads end with Cancelled."""
        self._calls.close()

    @overload
    def tokenize(  # type: ignore[overload-overlap]
        self, text: Prompt, /, *, timeout_s: float | None = None, **keywords: Unpack[TokenizeKeywords]
    ) -> Tokens: ...
    @overload
    def tokenize(
        self, texts: Sequence[Prompt], /, *, timeout_s: float | None = None, **keywords: Unpack[TokenizeKeywords]
    ) -> list[Tokens]: ...
    def tokenize(
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
        response = self._calls.unary(
            lambda gateway: gateway.inference.Tokenize, request, timeout_s=self._limit(timeout_s)
        )
        tokens = outputs.all_or_raise(outputs.outcomes(response.outputs, messages.tokens_of, len(batch)))
        return tokens[0] if alone else tokens

    @overload
    def detokenize(
        self, ids: Sequence[int], /, *, timeout_s: float | None = None, **keywords: Unpack[DetokenizeKeywords]
    ) -> str: ...
    @overload
    def detokenize(
        self, ids: Sequence[Sequence[int]], /, *, timeout_s: float | None = None, **keywords: Unpack[DetokenizeKeywords]
    ) -> list[str]: ...
    def detokenize(
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
        response = self._calls.unary(
            lambda gateway: gateway.inference.Detokenize, request, timeout_s=self._limit(timeout_s)
        )
        texts = outputs.all_or_raise(outputs.outcomes(response.outputs, messages.text_of, len(batch)))
        return texts[0] if alone else texts

    def cancel(
        self, *, request_id: str | None = None, execution_id: str | None = None, timeout_s: float | None = None
    ) -> bool:
        """Stop a request by one of its names. False where it had ended already; RequestNotFound for an unknown one."""
        request = requests.cancel_request(request_id, execution_id)
        return self._calls.unary(
            lambda gateway: gateway.inference.CancelRequest, request, timeout_s=self._limit(timeout_s)
        ).cancelled

    def models(self, *, timeout_s: float | None = None) -> list[Model]:
        """All served models."""
        response = self._calls.unary(
            lambda gateway: gateway.models.ListModels, ListModelsRequest(), timeout_s=self._limit(timeout_s)
        )
        return list(response.models)

    def model(self, name: str, *, timeout_s: float | None = None) -> Model:
        """One served model, by "name" (its newest version) or "name@version"."""
        return self._calls.unary(
            lambda gateway: gateway.models.GetModel, GetModelRequest(name=name), timeout_s=self._limit(timeout_s)
        ).model

    def watch_models(self, *, timeout_s: float | None = None) -> ModelWatch:
        """All served models now and after every change, for as long as the `with` block lasts."""
        return ModelWatch(self._calls, timeout_s)

    def server_info(self, *, timeout_s: float | None = None) -> GetServerInfoResponse:
        """Version, limits and name of the gateway that answers."""
        return self._calls.unary(
            lambda gateway: gateway.server.GetServerInfo, GetServerInfoRequest(), timeout_s=self._limit(timeout_s)
        )

    def load(self, model: str = "", *, timeout_s: float | None = None) -> list[ModelLoad]:
        """How busy one model is, or each of them."""
        response = self._calls.unary(
            lambda gateway: gateway.server.GetLoad, GetLoadRequest(model=model), timeout_s=self._limit(timeout_s)
        )
        return list(response.models)

    def _limit(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s


class ModelWatch(Stream[WatchModelsResponse, list[Model]]):
    """The served models, anew after every change; see `Client.watch_models`."""

    def _open(self, gateway: Gateway, timeout_s: float | None) -> OpenCall[WatchModelsResponse]:
        return gateway.models.WatchModels(WatchModelsRequest(), timeout=timeout_s)

    def _take(self, message: WatchModelsResponse) -> list[Model]:
        return list(message.models)
