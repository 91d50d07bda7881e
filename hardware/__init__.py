"""What this machine can do. Imported by the judge service and by training; imports neither.

    dtypes.py         which number format to compute in
    speed.py          how fast it multiplies matrices, measured
    memory.py         how much memory is free, and what a model takes
    model_folder.py   what a model folder holds and lacks
    vllm_cpu.py       vLLM on a CPU: settings, environment, corrections
    vllm_logs.py      vLLM's log without the contents of requests

torch is imported inside the functions that need it, so that settings can name a dtype without it.
"""
