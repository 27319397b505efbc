import os
import socket

for index in range(2):
    address = ("127.0.0.1", int(os.environ[f"JOB_PORT_{index}"]))
    with socket.create_server(address), socket.create_connection(address):
        print(f"{index}: connected")
