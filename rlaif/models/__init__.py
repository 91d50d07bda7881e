"""Models: by name, from a folder, with the roles that training needs.

catalog.py          short names, folders and hub ids; fetching a model without the hub
download.py         what is known of a model with a short name, and building its folder
folder.py           model folders and tensor files, read and written
backbone.py         one base model with a role per adapter
causal_lm.py        a model without roles, to sample from
lora.py             LoRA adapters over one model, by role
lora_config.py      settings of LoRA and the trainers' number format; imports no torch
merge.py            an adapter folded into its base
attention.py        attention that is fast in bfloat16 on CPUs
reward_model.py     heads that score a response, and the reward model made of them
sample_logprobs.py  log-probs of sampled responses under policy and base
"""
