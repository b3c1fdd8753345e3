"""Reference pages and navigation, of which scripts/write_docs.py and docs/conf.py make the docs."""
