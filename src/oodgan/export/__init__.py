"""Export of networks to ONNX and OpenVINO files, checked against PyTorch, and the editor's OpenVINO backend."""
