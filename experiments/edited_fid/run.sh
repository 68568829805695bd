#!/bin/sh
# FID of edited photos to real ones with the attribute: run.sh CELEBAHQ_1024 [further overrides], tables below $OODGAN_DATA/celebahq
set -eu
photos=${1:?give the folder of CelebA-HQ photos, 0.jpg to 29999.jpg, 1024 px}
shift
root=${ROOT:-runs/edited_fid}
methods=${METHODS:-'{plain: plain, poisson: poisson, ours: ours}'}
one() { # attribute, whether the edit adds it, edit, further overrides
  attribute=$1 present=$2 edit=$3
  shift 3
  oodgan evaluate metrics=celebahq_edited_fid "metrics.attribute.name=$attribute" "metrics.attribute.present=$present" \
    "photos=$photos" "edits={$edit}" "methods=$methods" probes=null judges=null "output=$root/$attribute" "$@"
}
one Smiling false 'smile: -1.0' "$@"
one Eyeglasses true 'eyeglasses: 1.0' "$@"
one Young false 'age: 1.0' "$@"
