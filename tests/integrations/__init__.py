"""Ringlight in other programs: what lies in integrations/, against a real server."""
