"""What is stored and what it means: methods, their schemes, and the checkpoints they make. Knows no engine."""
