"""A package beside a DAG, as users have it."""
