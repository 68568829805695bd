#!/bin/sh
# usage: run.sh run=NAME_OF_THE_RUN_WITH_GHOSTS [further overrides]
set -e
oodgan deghost -m hydra=joblib sweep=deghost_losses \
  deghoster.fit.losses.perceptual=0.0,0.01,0.05 deghoster.fit.losses.gan=0.0,0.01 seed=1,2 "$@"
oodgan compare sweep=deghost_losses output=runs/comparison/deghost_losses
