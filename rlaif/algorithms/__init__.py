"""The training algorithms, one package each: config.py (no torch), pure functions, train.py.

sft/       supervised fine-tuning on a mix of sources
reward/    a reward model with one head per trait, on soft labels
dpo/       direct preference optimization, on soft labels
ppo/       proximal policy optimization against a score: gae, rloo, grpo
rest/      reinforced self-training: sample, keep the best, imitate
"""
