"""From a network to an ONNX graph that describes itself, and on to an engine."""
