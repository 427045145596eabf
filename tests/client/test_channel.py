"""Where and how a client connects."""

import json
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from xlmstream import AsyncClient, Client, ResourceExhausted
from xlmstream.channel import options_with, targets_of
from xlmstream.testing import FakeServer
from xlmstream.testing.services import ModelService
from xlmstream.testing.stage import Stage
from xlmstream.v1.models_pb2_grpc import add_ModelServiceServicer_to_server


def test_addresses_become_targets() -> None:
    assert targets_of("gateway:50051") == ("dns:///gateway:50051",)
    assert targets_of(["a:1", "[::1]:2"]) == ("dns:///a:1", "dns:///[::1]:2")
    schemes = ["dns:///a:1", "ipv4:1.2.3.4:5,6.7.8.9:10", "ipv6:[::1]:5", "unix:/run/x.sock", "xds:///a"]
    assert targets_of(schemes) == tuple(schemes)


@pytest.mark.parametrize("address", ["", [], ["a:1", ""]])
def test_no_address(address: str | list[str]) -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:50051"):
        targets_of(address)


def test_users_add_and_replace_options() -> None:
    options = options_with([("grpc.keepalive_time_ms", 60_000), ("grpc.primary_user_agent", "mine")])
    assert len(dict(options)) == len(options), "each name once"
    assert dict(options)["grpc.keepalive_time_ms"] == 60_000
    assert dict(options)["grpc.primary_user_agent"] == "mine"
    config = json.loads(dict(options)["grpc.service_config"])
    assert config == {"loadBalancingConfig": [{"round_robin": {}}]}


async def test_options_reach_the_channels() -> None:
    tiny = (("grpc.max_receive_message_length", 10),)
    with FakeServer() as server:
        with Client(server.address, channel_options=tiny) as client, pytest.raises(ResourceExhausted):
            client.generate("much more than ten bytes")
        async with AsyncClient(server.address, channel_options=tiny) as async_client:
            with pytest.raises(ResourceExhausted):
                await async_client.generate("much more than ten bytes")


async def test_credentials_reach_the_channels() -> None:
    server = grpc.server(ThreadPoolExecutor(2))
    add_ModelServiceServicer_to_server(ModelService(Stage(None, (1,))), server)
    address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', grpc.local_server_credentials())}"
    server.start()
    try:
        with Client(address, credentials=grpc.local_channel_credentials()) as client:
            assert [model.name for model in client.models()] == ["fake"]
        async with AsyncClient(address, credentials=grpc.local_channel_credentials()) as async_client:
            assert [model.name for model in await async_client.models()] == ["fake"]
    finally:
        server.stop(None).wait()
