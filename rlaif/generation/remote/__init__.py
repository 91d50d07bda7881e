"""Rollout workers: samplers in processes of their own, beside the trainer or on other GPUs.

protocol.py    how a worker is started, asked and stopped; what a request and its answer are
process.py     a worker as a process of this machine
serve.py       that process
ray_worker.py  a worker as an actor on a Ray cluster
holder.py      what a worker holds: a sampler, and the weights of one version
pool.py        requests spread over workers that may die
weights.py     the trainer's weights as files
nccl.py        the trainer's weights by vLLM's own transfer, between GPUs
sampler.py     the Sampler over them: versions, and the check of log-probs after every sync
opening.py     starting them for one of the trainer's processes
"""
