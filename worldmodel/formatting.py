"""Numbers as people read them."""


def format_number(value: float | int, decimals: int = 1) -> str:
    """A return, or another number of any size, in few digits.

    Example:
        >>> figure(21.04), figure(1234567.8), figure(1e30), figure(-2e-9, decimals=0)
        ('21.0', '1234567.8', '1e+30', '0')
    """
    if abs(value) >= 1e7:
        return f"{value:.3g}"
    return f"{round(value, decimals) + 0.0:.{decimals}f}"
