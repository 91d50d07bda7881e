"""The court: text in, judgments out. A gRPC service over a vLLM engine; its client is light."""
