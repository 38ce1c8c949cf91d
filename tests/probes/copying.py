import copy
import pickle
import socket
import traceback

with socket.socket() as sock:
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        try:
            act(sock)
        except TypeError:
            print(traceback.format_exc().splitlines()[-1])
    again = pickle.loads(pickle.dumps(socket.socket))
    print(again is socket.socket, repr(sock).replace(f"fd={sock.fileno()}", "fd"))
    try:
        sock.unknown = 1
    except AttributeError as error:
        print(error)
