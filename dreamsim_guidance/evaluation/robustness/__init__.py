"""Agreement of a metric with people while an adversary changes the pictures."""
