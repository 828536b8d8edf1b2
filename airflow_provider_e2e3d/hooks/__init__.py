"""Hooks: connections become artifact stores."""
