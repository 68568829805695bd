#!/bin/sh
# Thresholds of the mask at several strengths, one evaluation an edit: run.sh PHOTOS [further overrides]
set -eu
photos=${1:?give the folder of aligned photos}
shift
root=${ROOT:-runs/strength_and_threshold}
methods='inversion: inversion, plain: plain'
for threshold in ${THRESHOLDS:-0.15 0.25 0.35 0.45}; do
  methods="$methods, mask_$threshold: {diffcam: {mask: {threshold: $threshold, thresholds: null}}}"
done
folders=
for edit in ${EDITS:-smile eyeglasses beard age}; do
  oodgan evaluate metrics=likeness "photos=$photos" "edits={$edit: 1.0}" "methods={$methods}" \
    "strengths=${STRENGTHS:-[0.5, 1, 1.5]}" "output=$root/$edit" "$@"
  folders="$folders $root/$edit"
done
# shellcheck disable=SC2086
python -m oodgan.evaluation.merged $folders --chart "$root/curves.png" >"$root/table.md"
cat "$root/table.md"
