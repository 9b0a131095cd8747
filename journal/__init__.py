"""What we remember: every query in Parquet segments, every sighting in SQLite, and how both are asked."""
