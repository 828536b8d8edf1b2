"""What a run will take and cost, and what runs took."""
