import os

print(os.environ["WHAT"])
