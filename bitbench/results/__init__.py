"""What is kept: records, the machine they came from, and the statistics and checks computed when they are read."""
