"""What this machine can do. Imported by the judge service and by training; imports neither.

dtypes.py         which number format to compute in
speed.py          speed of matrix multiplication, measured
machine.py        cores, processor, GPUs and free disk, found without torch
memory.py         free memory, and the number of a model's parameters
model_folder.py   what a model folder contains and lacks
vllm_cpu.py       settings and fixes for vLLM on a CPU
vllm_logs.py      vLLM's log without its dump of requests

torch is imported inside the functions that need it, so that settings can name a dtype without it.
"""
