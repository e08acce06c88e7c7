"""What the three shops have in common: data, prices, recommendations. Nothing in it knows a framework."""
