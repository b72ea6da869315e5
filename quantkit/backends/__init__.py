"""Runtimes that run a model: the only place that imports them. Each module needs only its own runtime."""
