"""Frames in, frames out: sources, backends, sinks and the pipeline between. No torch."""
