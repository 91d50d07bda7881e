"""What the benchmarks beside TRL share: each side is one process, timed from outside its trainer.

data.py              pairs and prompts, the same token ids for both sides
sides.py             the processes: their jobs, step times and memory
comparing.py         rounds in alternating order, medians, the printed table
pairwise.py          what the benchmarks of DPO, reward model and SFT share
rolling.py           what those of PPO share; endless.py: responses of one length
our_training.py      our trainers as they ship, called with a job; our_ppo.py: PPO
trl_training.py      TRL's trainers with the same job; trl_ppo.py: TRL 1.12's PPO
trl_environment.py   the environment of TRL 1.12, made once
"""
