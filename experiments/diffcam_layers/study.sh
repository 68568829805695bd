#!/bin/sh
# usage: study.sh [overrides]
set -e
root= # where the runs lie, when it is given
for word; do case $word in root=*) root=$word ;; esac; done
oodgan diffcam -m hydra=optuna sweep=diffcam_study hydra.sweeper.n_trials=20 \
  "diffcam.fit.lr=tag(log, interval(1e-5, 1e-2))" "diffcam.fit.batch_size=choice(16, 32, 64)" "$@"
oodgan compare sweep=diffcam_study 'output=${root}/comparison/diffcam_study' ${root:+"$root"}
