import multiprocessing
import os
import socket
import sys


def work(number):
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        client.close()
        assert accepted.recv(1) == b""
        accepted.close()
    return number * number, __name__, os.path.basename(sys.argv[0])


def fail(number):
    raise ValueError(f"no {number}")


def leave():
    sys.exit(5)


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(1) as pool:
        print(pool.map(work, [2, 3]))
        try:
            pool.apply(fail, (1,))
        except ValueError as error:
            print(repr(error), len(str(error.__cause__).splitlines()))
        pool.close()
        pool.join()
    process = context.Process(target=leave)
    process.start()
    process.join()
    print(process.exitcode, multiprocessing.active_children())
