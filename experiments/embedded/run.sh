#!/bin/sh
# One table of all methods on a folder of aligned photos: run.sh PHOTOS [MASKS [further overrides]]
set -eu
photos=${1:?give the folder of aligned photos}
masks=${2:-null}
shift "$(($# < 2 ? $# : 2))"
root=${ROOT:-runs/embedded}
methods='{inversion: inversion, plain: plain, alpha: alpha, poisson: poisson, paper: paper, ours: ours}'
folders=
for edit in ${EDITS:-smile eyeglasses beard age smile+eyeglasses}; do # names joined by + are one edit
  edits=$(printf '%s' "$edit" | sed 's/+/: 1.0, /g')
  oodgan evaluate "photos=$photos" "masks=$masks" "edits={$edits: 1.0}" "methods=$methods" \
    "strengths=${STRENGTHS:-[0.5, 1, 1.5]}" "output=$root/$edit" "$@"
  folders="$folders $root/$edit"
done
# shellcheck disable=SC2086
python -m oodgan.evaluation.report $folders >"$root/table.md"
cat "$root/table.md"
