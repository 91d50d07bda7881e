"""The table of RPCs against the contract: one row for each, and the columns only the table has."""

from __future__ import annotations

import json

from google.protobuf import descriptor_pb2

from judge_service.client.channel import channel_options
from judge_service.rpc import PACKAGE, RPCS, SCOPES, find_rpc, is_ours
from judge_service.server.servicers import ConstitutionServicer, JudgeServicer
from judge_service.v1 import judge_pb2 as pb

FREE = "/judge_service.v1.JudgeService/GetServerInfo"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def streaming_by_method() -> dict[str, bool]:
    """Every method of the contract, and whether its client streams."""
    file = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    return {
        f"/{file.package}.{service.name}/{method.name}": method.client_streaming
        for service in file.service
        for method in service.method
    }


def test_every_rpc_of_the_contract_has_one_row() -> None:
    contract = set(streaming_by_method())
    rows = [rpc.method for rpc in RPCS]
    missing = sorted(contract - set(rows))
    assert not missing, f"add a row to RPCS in judge_service/rpc.py for {', '.join(missing)}"
    stale = sorted(set(rows) - contract)
    assert not stale, f"judge.proto has no {', '.join(stale)}: remove the row from RPCS"
    assert len(rows) == len(set(rows)), "RPCS in judge_service/rpc.py has two rows for one RPC"
    assert pb.DESCRIPTOR.package == PACKAGE


def test_rows_mark_streaming_as_the_contract_does() -> None:
    contract = streaming_by_method()
    for rpc in RPCS:
        assert rpc.streaming == contract[rpc.method], f"{rpc.method}: wrong `streaming` in RPCS"
        counts_items = rpc.quota == "items"
        assert counts_items == rpc.streaming, f"{rpc.method}: quota `items` is for streams alone"
        assert rpc.scope in SCOPES


def test_every_rpc_is_served() -> None:
    servicers = {"JudgeService": JudgeServicer, "ConstitutionService": ConstitutionServicer}
    for rpc in RPCS:
        servicer = servicers[rpc.service.rpartition(".")[2]]
        assert rpc.name in vars(servicer), (
            f"{servicer.__name__} in server/servicers.py lacks {rpc.name}"
        )


def test_a_method_without_a_row_needs_the_scope_admin_and_counts_as_a_call() -> None:
    foreign = find_rpc(REFLECTION)
    assert (foreign.scope, foreign.quota, foreign.always_admitted) == ("admin", "call", False)
    assert foreign.method == REFLECTION
    assert not is_ours(REFLECTION)
    assert is_ours("/judge_service.v1.JudgeService/Unheard")
    assert find_rpc("/judge_service.v1.JudgeService/Unheard").scope == "admin"


def test_clients_poll_the_server_s_state_for_free() -> None:
    assert [rpc.method for rpc in RPCS if rpc.quota == "free"] == [FREE]
    assert [rpc.method for rpc in RPCS if rpc.always_admitted] == [FREE]


def test_grpc_retries_the_rows_marked_as_retried() -> None:
    options = dict(channel_options("127.0.0.1:1", 1, local=True))
    [config] = json.loads(str(options["grpc.service_config"]))["methodConfig"]
    retried = {f"/{name['service']}/{name['method']}" for name in config["name"]}
    assert retried == set(streaming_by_method()) - {
        FREE,
        "/judge_service.v1.JudgeService/StreamJudgments",
    }
