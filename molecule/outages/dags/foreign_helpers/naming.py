"""A module that a DAG imports."""


def greeting(name):
    return f"hello from {name}"
