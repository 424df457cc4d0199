"""A strict client of the Open Inference Protocol: it sends what it is told, right or wrong, and believes nothing of the answer."""
