"""The deployed networks outside of PyTorch: ONNX and OpenVINO files, checked against PyTorch, and run by the editor."""
