"""Albedo and shading learned from synthetic paradigms, without a data set."""
