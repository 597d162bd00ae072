"""Format numbers for tables and messages."""


def format_number(value: float | int, decimals: int = 1) -> str:
    """Format a return, or another number of any size, with few digits.

    Example:
        >>> format_number(21.04), format_number(1234567.8), format_number(1e30), format_number(-2e-9, decimals=0)
        ('21.0', '1234567.8', '1e+30', '0')
    """
    if abs(value) >= 1e7:
        return f"{value:.3g}"
    return f"{round(value, decimals) + 0.0:.{decimals}f}"
