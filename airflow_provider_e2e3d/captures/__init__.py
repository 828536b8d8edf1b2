"""What people upload, as a listing of their bucket or folder shows it."""
