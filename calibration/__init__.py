"""Calibration: pictures become ranges, ranges an INT8 graph that keeps within a drift budget."""
