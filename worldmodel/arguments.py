"""Bad arguments, told in one line."""


def at_least_one(**numbers: int | None) -> None:
    """Refuse numbers below one; None means "not given".

    Raises:
        ValueError: names the argument.
    """
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
