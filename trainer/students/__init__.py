"""Students: networks, their encoders, and where their weights come from."""
