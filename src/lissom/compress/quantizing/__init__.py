"""How an ONNX model becomes an int8 one: calibration, ranges, the ladder and each of its rungs."""
