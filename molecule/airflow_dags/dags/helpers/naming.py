"""What the team's DAG imports."""


def greet():
    print("Hello from the team")
