#!/bin/sh
# All methods on a folder of aligned photos, one evaluation an edit: run.sh PHOTOS [MASKS [further overrides]]
set -eu
photos=${1:?give the folder of aligned photos}
masks=${2:-null}
shift "$(($# < 2 ? $# : 2))"
root=${ROOT:-runs/embedded}
code='inverter: {residual: null}' # without feature space
all="{inversion: inversion, plain: plain, ours: ours,
  no_mask: {diffcam: {mask: {kind: everywhere}}}, no_deghosting: {deghoster: null},
  difference: {compose: {mode: difference}}, alpha: {compose: {mode: alpha}}, poisson: {compose: {mode: poisson}},
  paper: paper,
  code_inversion: {method: inversion, $code}, code_plain: {method: plain, $code}, code_ours: {method: ours, $code},
  code_paper: {method: paper, $code}}"
methods=$(printf '%s' "${METHODS:-$all}" | tr '\n' ' ')
folders=
for edit in ${EDITS:-smile eyeglasses beard age}; do # names joined by + are one edit
  edits=$(printf '%s' "$edit" | sed 's/+/: 1.0, /g')
  oodgan evaluate metrics=likeness "photos=$photos" "masks=$masks" "edits={$edits: 1.0}" \
    "methods=$methods" "strengths=${STRENGTHS:-[0.5, 1, 1.5]}" "output=$root/$edit" "$@"
  folders="$folders $root/$edit"
done
# shellcheck disable=SC2086
python -m oodgan.evaluation.merged $folders --chart "$root/curves.png" >"$root/table.md"
cat "$root/table.md"
