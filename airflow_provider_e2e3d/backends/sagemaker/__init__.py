"""Training jobs on Amazon SageMaker."""
