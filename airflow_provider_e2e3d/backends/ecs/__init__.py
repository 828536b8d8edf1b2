"""Tasks on Amazon ECS."""
