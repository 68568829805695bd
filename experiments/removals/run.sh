#!/bin/sh
# Edits that take away: run.sh PHOTOS MASKS RECOGNISER [further overrides], tables below runs/removals (or $ROOT)
set -eu
photos=${1:?give the folder of aligned photos}
masks=${2:?give the folder of their parsing masks, or null}
recogniser=${3:?give the ONNX file of a recogniser for crops of 112 x 96 px}
shift 3
sets=$(cd "$(dirname "$0")/../sets" && pwd)
for attribute in ${EDITS:-eyeglasses smile beard bangs}; do
  oodgan evaluate "photos=$photos" "masks=$masks" "set=$sets/removal-$attribute.sha256" metrics=likeness \
    "edits={$attribute: -1}" 'methods={inversion: inversion, plain: plain, ours: ours}' "strengths=${STRENGTHS:-[0.5, 1, 1.3]}" \
    "recogniser={path: $recogniser, width: 96}" "output=${ROOT:-runs/removals}/$attribute" "$@"
done
