"""The public functions of `import rlaif`, for scripts and notebooks; the commands call them too.

problems.py   several refusals reported together
inputs.py     records, prompts, constitution and settings, from files or from memory
encoding.py   every record encoded as the run encodes it, for a dry run
plan.py       a training that was checked and not yet started
pairs.py      train_sft, train_reward, train_dpo: training on records
corpus/       prepare_corpus, and training on what it made
rollouts.py   train_ppo, train_rest: training on the policy's own responses
sampling.py   sample, merge_adapter, score
sharded.py    split_shards, sample_shards, score_shards, label_shards, revise_shards: folders
              that many processes make together
labeling.py   label, update_labels: pairs that a judge compares, for training
redteam/      red_team, adopt_failures, check_regressions
revising.py   revise: responses that a judge criticizes and rewrites
judging.py    evaluate; the judge that a function is given

Each function checks all of its arguments before it imports torch, loads a model or starts a server,
and raises a UserError that names what is wrong and what to do: of the argument's own kind for one
problem (RecordError, ModelError, InvalidSettingsError, ...), RefusedError for several.
"""
