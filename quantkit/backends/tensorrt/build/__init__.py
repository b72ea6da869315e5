"""Building engines: options, configuration, shapes, timing cache, manifest."""
