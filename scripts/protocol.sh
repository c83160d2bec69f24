#!/usr/bin/env bash
# The table of docs/protocols.md: short trainings of equal length, each with one thing changed,
# and evaluations of one fully trained MAML with one thing changed.
#
#     scripts/protocol.sh RUN OUTPUTS      RUN: a finished run of experiment=maml/omniglot_5w1s; two jobs at a time
#
# The result files lie in OUTPUTS/train, by name, and in OUTPUTS/evaluate.
set -euo pipefail
run=$1 outputs=$2
short="paper=null trainer/schedule=cosine trainer.optimizer.lr=0.003 trainer.val_every=0 trainer.test_checkpoint=last"
maml="experiment=maml/omniglot_5w1s $short trainer.steps=500 algorithm.stream.tasks=16 algorithm.eval_inner_steps=3"
protonet="experiment=protonet/omniglot_5w1s $short trainer.steps=500 train_ways=30"
common="evaluation.episodes=1000 threads=1 output_dir=$outputs"

jobs() { while read -r name words; do echo "$1$name $words"; done; }  # a line of words for each line of stdin

{
    jobs "train $maml $common logger=console name=protocol_maml_" <<'END'
short
first_order algorithm.first_order=true
alphabets dataset.split=vinyals
upright dataset.rotations=none
turns_as_classes dataset.rotations=classes
antialias dataset.resize=antialias
support algorithm.norm_statistics=support
running algorithm.norm_statistics=running
END
    jobs "train $protonet $common logger=console name=protocol_protonet_" <<'END'
short
upright dataset.rotations=none
random_split dataset.split=random
euclidean algorithm.distance=euclidean
antialias dataset.resize=antialias
fp32 precision=fp32
END
    jobs "evaluate run=$run $common name=protocol_trained_" <<'END'
1_step algorithm.eval_inner_steps=1
3_steps algorithm.eval_inner_steps=3
5_steps algorithm.eval_inner_steps=5
10_steps algorithm.eval_inner_steps=10
15_queries queries=15
support algorithm.norm_statistics=support
upright dataset.rotations=none
antialias dataset.resize=antialias
within_alphabets within_groups=true
END
} | xargs -P 2 -d '\n' -n 1 sh -c 'fewshot $0'
