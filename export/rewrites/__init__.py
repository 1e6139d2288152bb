"""Exact rewrites of an ONNX graph, one function each; `sdps.export.rewrite` applies them.

Each takes an `onnx_ir.Graph`, changes it in place where its pattern is found, and returns the number
of places. None depends on names or on the size that the graph was traced at, so all of them work on
dynamic graphs and on networks that are not ours.
"""
