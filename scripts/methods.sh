#!/usr/bin/env bash
# All methods on one data set with one network and equally many updates, 5-way 1-shot and 5-shot, three seeds
# (SEEDS=0,1,2), tested on the same EPISODES=600.
#
#     scripts/methods.sh OUTPUTS DATASET STEPS [KEY=VALUE ...]      scripts/methods.sh outputs/methods omniglot 1000
#
# Methods that train an embedding or an initialisation are trained by themselves. Heads on a trained classifier share
# one classifier for each seed: that of simpleshot. The same command again runs what is missing, and prints the report.
set -euo pipefail
outputs=$1 data=$2 steps=$3
shift 3
episodic=maml,fomaml,metasgd,anil,boil,maml_pp,reptile,proto_maml,protonet,meta_baseline,matching,relation,r2d2,metaoptnet,feat
heads=simpleshot,ridge,logistic_regression,tim,alpha_tim,laplacianshot,bd_cspn,pt_map,transductive_finetuning
common="output_dir=$outputs/$data logger=console evaluation.episodes=${EPISODES:-600}"
training="$common dataset=$data backbone=conv4_32 trainer.steps=$steps seed=${SEEDS:-0,1,2} trainer.val_every=0 trainer.test_checkpoint=last"
failed=0

# shellcheck disable=SC2086
{
    fewshot train -m $training algorithm=$episodic,baseline,baseline_pp shots=1,5 name=methods "$@" || failed=1
    fewshot train -m $training algorithm=simpleshot name=classifiers "$@" || failed=1
    for run in "$outputs/$data"/sweeps/classifiers/*/result.json; do
        fewshot evaluate -m $common run="${run%/*}" algorithm=$heads shots=1,5 name="heads_$(basename "${run%/*}")" || failed=1
    done
}
fewshot report "$outputs/$data" --markdown "$outputs/$data.md" --html "$outputs/$data.html" --csv "$outputs/$data.csv"
exit $failed
