"""Write the numbers 1 to 100 to data/numbers.txt."""

from pathlib import Path

Path("data/numbers.txt").write_text("\n".join(str(number) for number in range(1, 101)), encoding="utf-8")
print("prepared 100 numbers")
