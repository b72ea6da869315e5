"""Geometry of the charts, the one place that knows it: frames, scales, ticks, points and labels, all in SVG units.

Templates only draw what is laid out here.
"""
