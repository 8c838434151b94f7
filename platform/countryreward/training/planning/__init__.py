"""What a training will cost, before anyone pays: memory by part, speed, hours."""
