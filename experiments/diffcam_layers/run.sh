#!/bin/sh
# usage: run.sh [overrides]
set -e
root= # where the runs lie, when it is given
for word; do case $word in root=*) root=$word ;; esac; done
oodgan diffcam -m hydra=joblib sweep=diffcam_layers "diffcam.network.layers=[22],[15,22],[8,15,22],[8,15]" seed=1,2 "$@"
oodgan compare sweep=diffcam_layers 'output=${root}/comparison/diffcam_layers' ${root:+"$root"}
