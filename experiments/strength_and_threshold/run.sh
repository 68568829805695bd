#!/bin/sh
# usage: run.sh PHOTOS [ATTRIBUTE] [further overrides]
set -e
photos=${1:?usage: run.sh PHOTOS [ATTRIBUTE] [further overrides]}
attribute=${2:-smile}
[ $# -gt 1 ] && shift 2 || shift
oodgan edit -m hydra=joblib sweep=strength_and_threshold "input='$photos'" \
  "output='\${hydra:runtime.output_dir}'" save=[edited,mask,coarse] \
  "edits={$attribute: 0.5},{$attribute: 1.0},{$attribute: 1.5},{$attribute: 2.0}" \
  diffcam.mask.threshold=0.15,0.3,0.45,0.6 diffcam.mask.thresholds=null "$@"
