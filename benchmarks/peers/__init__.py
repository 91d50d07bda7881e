"""What the `*_vs_trl.py` benchmarks share: each side is one process, timed from outside its trainer.

data.py              pairs and prompts, the same token ids for both sides
sides.py             the processes: what each is told, when its steps ended, what it held
comparing.py         rounds in alternating order, medians, the printed table
our_training.py      our trainers as they ship, called with a job
trl_training.py      TRL's DPO, reward and SFT trainers with the same job
trl_ppo.py           TRL 1.12's PPO trainer
trl_environment.py   the environment of TRL 1.12, made once
"""
