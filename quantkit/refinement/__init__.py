"""What samples tell beyond statistics: the range that hurts the output least, and weights rounded with feedback."""
