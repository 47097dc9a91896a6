"""Curves as braille: decimation, scales, rasters. Pure numpy, no terminal."""
