import logging
import socket
import sys
import traceback

logging.basicConfig(format="%(levelname)s %(message)s")


class Mine(socket.socket):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


def attempt(make, *args, **kwargs):
    try:
        make(*args, **kwargs)
    except Exception as error:
        print(traceback.format_exc())
        print(traceback.extract_tb(error.__traceback__))
        print(len(traceback.extract_stack(sys.exc_info()[2].tb_frame)))
        logging.exception("failed")


for kind in (socket.socket, Mine):
    attempt(kind, 9999)
    attempt(kind, socket.AF_INET, 77)
    attempt(kind, fileno=-5)
    attempt(kind, fileno="text")
    attempt(kind, "text")
    attempt(kind, 1, 2, 3, 4, 5)
    attempt(kind, nonsense=1)
attempt(socket.create_connection, ("127.0.0.1", -1))
attempt(socket.fromfd, 99999, 2, 1)
socket.socket(9999)
