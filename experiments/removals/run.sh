#!/bin/sh
# Edits that take away: run.sh PHOTOS RECOGNISER [further overrides], tables below runs/removals (or $ROOT)
set -eu
photos=${1:?give a folder with one folder of aligned photos for each of eyeglasses, smile, beard and bangs}
recogniser=${2:?give the ONNX file of a recogniser for crops of 112 x 96 px}
shift 2
for attribute in eyeglasses smile beard bangs; do
  # The inversion keeps its own recogniser: one that is given as ONNX judges only.
  oodgan evaluate "photos=$photos/$attribute" metrics=quick "edits={$attribute: -1}" \
    'methods={inversion: inversion, plain: plain, ours: ours}' \
    identity=arcface "identity.path=$recogniser" identity.width=96 \
    'inverter.refine.recogniser={_target_: oodgan.nn.facenet.FaceNet}' \
    "output=${ROOT:-runs/removals}/$attribute" "$@"
done
