#!/bin/sh
# usage: run.sh [overrides]
set -e
oodgan diffcam -m hydra=joblib sweep=diffcam_layers "diffcam.network.layers=[22],[15,22],[8,15,22],[8,15]" seed=1,2 "$@"
oodgan compare sweep=diffcam_layers output=runs/comparison/diffcam_layers
