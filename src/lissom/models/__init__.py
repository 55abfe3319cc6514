"""Architectures, data, training and evaluation."""
