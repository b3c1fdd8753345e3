"""The stages of a generation, one file each. Every stage says in its signature what it takes and gives."""
