"""The API: requests as our types, our types as answers, and what both look like in OpenAPI."""
