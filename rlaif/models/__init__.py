"""Models: found by name, loaded from folders, with the roles that training needs.

catalog.py          short names, folders and hub ids; fetching a model without a hub
download.py         a model folder built from packages of the Python package index
folder.py           reading and writing of model folders and tensor files
backbone.py         one base model with a LoRA adapter for each role
causal_lm.py        a model without roles, to sample from
lora.py             LoRA adapters over one model, by role
lora_config.py      settings of LoRA and the trainers' number format; imports no torch
lora_targets.py     which layers get an adapter
merge.py            an adapter folded into its base
attention/          attention kernels, and the check at load that a model is computed exactly
reward/             a reward model's heads, and the weights of its traits
reward_model.py     a reward model: heads over a backbone that score responses
sample_logprobs.py  log-probs of sampled responses under policy and base
"""
