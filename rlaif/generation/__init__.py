"""Responses of a policy: one sampler per engine, used alike by `rlaif sample` and by PPO and ReST.

base.py           the Sampler protocol and its result, seeds, memory of keys and values
config.py         SamplingConfig: the settings of `rlaif sample`
engines.py        SAMPLERS, the table of engines; choosing and opening one
transformers.py   drawing by inverse CDF from the model's own forward
vllm.py           vLLM in this process, over the policy under training or over a folder
weight_sync.py    the trainer's current weights into a vLLM engine of the same process
offline.py        n responses to every prompt of a file, kept chunk by chunk
worker.py         the process that holds the model while `offline` samples
remote/           rollout workers: samplers in processes of their own, for PPO and ReST
"""
