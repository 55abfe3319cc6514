"""Artifacts over HTTP: the Open Inference Protocol and `/predict`, inside a BentoML service."""
