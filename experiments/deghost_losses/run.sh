#!/bin/sh
# usage: run.sh run=NAME_OF_THE_RUN_WITH_GHOSTS [further overrides]
set -e
root= # where the runs lie, when it is given
for word; do case $word in root=*) root=$word ;; esac; done
oodgan deghost -m hydra=joblib sweep=deghost_losses \
  deghoster.fit.module.losses.perceptual.weight=0.0,0.01,0.05 deghoster.fit.module.losses.gan.weight=0.0,0.01 seed=1,2 "$@"
oodgan compare sweep=deghost_losses 'output=${root}/comparison/deghost_losses' ${root:+"$root"}
