"""What scripts/write_docs.py writes into docs/, and docs/conf.py takes up, where it is more than a table."""
