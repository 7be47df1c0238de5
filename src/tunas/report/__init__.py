"""Reading runs back."""
