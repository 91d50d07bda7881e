#!/bin/sh
# Compares two responses with grpcurl alone, and prints the whole judgment as JSON.
# Run: ./compare.sh [HOST:PORT]. With reflection (on by default on loopback) the two options for
# the contract can be left out, and `grpcurl -plaintext HOST:PORT list` lists the services.
set -eu
protos="$(dirname "$0")/../../../protos"
grpcurl -plaintext -import-path "$protos" -proto judge_service/v1/judge.proto -max-time 120 \
    -d @ "${1:-127.0.0.1:50051}" judge_service.v1.JudgeService/ComparePair <<'REQUEST'
{
  "conversation": [{"role": "ROLE_USER", "content": "My parcel is three days late."}],
  "response_a": "I am sorry. I will call the depot now and write to you by noon.",
  "response_b": "Someone will look into it."
}
REQUEST
