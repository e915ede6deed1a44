"""The papers' tables as data, and one's own runs beside their numbers."""
