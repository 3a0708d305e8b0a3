"""Other people's models: packages that nobody here wrote, each network with what its own code says of its blocks."""
