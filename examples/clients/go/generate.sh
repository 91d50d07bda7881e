#!/bin/sh
# Generates judgepb/ from protos/. Needs protoc, protoc-gen-go and protoc-gen-go-grpc on PATH
# (Debian: protobuf-compiler protoc-gen-go-1-5 protoc-gen-go-grpc). PROTOC: another compiler.
set -eu
cd "$(dirname "$0")"
mapping=Mjudge_service/v1/judge.proto=judge-client/judgepb
${PROTOC:-protoc} -I ../../../protos --go_out=. --go-grpc_out=. \
    --go_opt="module=judge-client,$mapping" --go-grpc_opt="module=judge-client,$mapping" \
    judge_service/v1/judge.proto
