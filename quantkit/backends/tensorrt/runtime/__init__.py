"""Running engines: their inputs and outputs, memory and execution."""
